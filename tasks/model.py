"""`models/run` as an object: a meta-learner and its trained meta-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from episodic import algorithms, checkpoint, models
from episodic.learner import MetaLearner
from episodic.objective import Objective
from episodic.ops import Params
from tasks.files import read_json
from tasks.stage import StageError

FORMAT = 1


def learner(model: dict[str, Any], algorithm: dict[str, Any], input: list[int], outputs: int, kind: str, batch_norm: str) -> MetaLearner:
    """The meta-learner that `models/run/config.json` describes; model and algorithm are `{"name": ..., **params}`."""
    network = models.build(model["name"], _config(models.registry, model), tuple(input), outputs)
    method = algorithms.build(algorithm["name"], _config(algorithms.registry, algorithm))
    return MetaLearner(network, method, Objective(kind), batch_norm)


def _config(registry: Any, section: dict[str, Any]) -> Any:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items() if key != "name"}
    return registry[section["name"]].Config(**values)


def load(folder: Path, device: torch.device) -> tuple[MetaLearner, Params, dict[str, Any]]:
    """The meta-learner, its meta-parameters on the device, and config.json."""
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise StageError(f"{folder / 'config.json'} has format {config.get('format')!r}, not {FORMAT}: run the stage train again")
    outputs = config["ways"] if config["kind"] == "classification" else 1
    result = learner(**{key: config[key] for key in ("model", "algorithm", "input", "kind", "batch_norm")}, outputs=outputs)
    path = folder / "weights.safetensors"
    tensors, _ = checkpoint.load(path)
    meta = checkpoint.matching(tensors, result.init(0), path)
    return result, {name: p.to(device) for name, p in meta.items()}, config
