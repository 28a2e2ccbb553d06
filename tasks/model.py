"""`models/run` as an object: a meta-learner and its trained meta-parameters."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from episodic import algorithms, checkpoint, models
from episodic.learner import MetaLearner
from episodic.objective import Objective
from episodic.ops import Params as Theta
from tasks.files import read_json
from tasks.params import Params
from tasks.stage import StageError

FORMAT = 1


def described(settings: Params, data: dict[str, Any]) -> dict[str, Any]:
    """What of `models/run/config.json` makes the meta-learner, from params and `data/prepared/meta.json`."""
    chosen = {"model": settings.model, "algorithm": settings.algorithm}
    return {section: {"name": choice.name} | asdict(choice.config) for section, choice in chosen.items()} | {
        "batch_norm": settings.train.batch_norm,
        "input": data["input"],
        "kind": data["kind"],
        "ways": data["ways"],
        "classes": data["classes"].get("train", 0),
    }


def learner(config: dict[str, Any]) -> MetaLearner:
    """The meta-learner that `models/run/config.json` describes."""
    method = algorithms.build(config["algorithm"]["name"], _config(algorithms.registry, config["algorithm"]))
    outputs = method.outputs_of_model(config["ways"], config["classes"]) if config["kind"] == "classification" else 1
    return _learner(config, method, outputs)


def plain(config: dict[str, Any]) -> MetaLearner:
    """The same model with an output a class of a test episode, and no method."""
    return _learner(config, algorithms.Algorithm(), config["ways"] if config["kind"] == "classification" else 1)


def _learner(config: dict[str, Any], method: algorithms.Algorithm, outputs: int) -> MetaLearner:
    network = models.build(config["model"]["name"], _config(models.registry, config["model"]), tuple(config["input"]), outputs)
    return MetaLearner(network, method, Objective(config["kind"]), config["batch_norm"])


def _config(registry: Any, section: dict[str, Any]) -> Any:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items() if key != "name"}
    return registry[section["name"]].Config(**values)


def load(folder: Path, device: torch.device) -> tuple[MetaLearner, list[Theta], dict[str, Any]]:
    """The meta-learner, its meta-parameters on the device (the best first; several for an ensemble), and config.json."""
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise StageError(f"{folder / 'config.json'} has format {config.get('format')!r}, not {FORMAT}: run the stage train again")
    result = learner(config)
    wanted = result.init(0)
    members = []
    for number in range(1, config["ensemble"] + 1):
        path = folder / ("weights.safetensors" if number == 1 else "ensemble.safetensors")
        tensors, _ = checkpoint.load(path)
        if number > 1:
            tensors = {name.removeprefix(f"{number}/"): t for name, t in tensors.items() if name.startswith(f"{number}/")}
        members.append({name: p.to(device) for name, p in checkpoint.matching(tensors, wanted, path).items()})
    return result, members, config
