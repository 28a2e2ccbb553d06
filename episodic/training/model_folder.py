"""A trained meta-learner as a folder: `weights.safetensors` and `config.json`; of a run, its model card `README.md` lies beside them.

config.json holds all that the weights need to be used: model, method, how files become numbers (`inputs`, see `episodic.preprocessing`). No data,
no pickle, no code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from episodic.core.config import ConfigError
from episodic.core.errors import UserError
from episodic.core.files import write_json
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS, MODELS, Registry
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.training import checkpoint

FORMAT = 2
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
MOST_MEMBERS = 1000


class TrainedError(UserError, ValueError):
    """A folder that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Trained:
    """members: meta-parameters without a task axis, the best first (several for an ensemble); config: as in config.json"""

    learner: MetaLearner
    members: list[Params]
    config: dict[str, Any]


def learner(config: dict[str, Any]) -> MetaLearner:
    """The meta-learner that config.json describes."""
    method = ALGORITHMS[config["algorithm"]["name"]].build(_config(ALGORITHMS, config["algorithm"]))
    outputs = (
        method.outputs_of_model(config["ways"], config["classes"])
        if config["kind"] == "classification"
        else 1
    )
    return _learner(config, method, outputs)


def plain(config: dict[str, Any]) -> MetaLearner:
    """The same model with an output a class of a test episode, and no method."""
    return _learner(
        config, Algorithm(), config["ways"] if config["kind"] == "classification" else 1
    )


def _learner(config: dict[str, Any], method: Algorithm, outputs: int) -> MetaLearner:
    network = MODELS[config["model"]["name"]].build(
        _config(MODELS, config["model"]), tuple(config["input"]), outputs
    )
    return MetaLearner(network, method, Objective(config["kind"]), config["batch_norm"])


def _config(registry: Registry, section: dict[str, Any]) -> Any:
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in section.items()
        if key != "name"
    }
    return registry[section["name"]].Config(**values)


def save(folder: Path, members: list[Params], config: dict[str, Any]) -> None:
    """Writes the two files; `format` and `ensemble` are added to the config."""
    (folder / CONFIG).unlink(
        missing_ok=True
    )  # a program that is killed here leaves no config beside weights that are not its own
    checkpoint.save(
        folder / WEIGHTS,
        {_name(i, name): p for i, member in enumerate(members) for name, p in member.items()},
        {},
    )
    write_json(folder / CONFIG, config | {"format": FORMAT, "ensemble": len(members)})


def load(folder: Path, device: torch.device | str = "cpu") -> Trained:
    """TrainedError or CheckpointError where the folder does not hold what `save` writes, in one sentence."""
    config = described(folder)
    result = built(folder, config)
    return Trained(result, read_members(folder, config, result.init(0), device), config)


def built(folder: Path, config: dict[str, Any]) -> MetaLearner:
    """`learner`, of a file that may hold anything; TrainedError in one sentence."""
    try:
        result = learner(config)
        result.init(0)
        return result
    except ConfigError as error:
        raise TrainedError(f"{folder / CONFIG}: {error}") from error
    except KeyError as error:
        raise TrainedError(
            f"{folder / CONFIG} lacks {error}: copy the model again, or train it again"
        ) from error
    except (TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        said = " ".join(str(error).split())
        raise TrainedError(
            f"{folder / CONFIG} does not describe a model ({said}): copy it again, or train it again"
        ) from error


def read_members(
    folder: Path, config: dict[str, Any], wanted: Params, device: torch.device | str = "cpu"
) -> list[Params]:
    """The parameters of each member of the ensemble, with the names and shapes of `wanted`."""
    members = config.get("ensemble")
    if type(members) is not int or not 1 <= members <= MOST_MEMBERS:
        raise TrainedError(
            f"{folder / CONFIG}: ensemble is {members!r}: must be between 1 and {MOST_MEMBERS}"
        )
    tensors, _ = checkpoint.load(folder / WEIGHTS, device)
    expected = {_name(i, name): p for i in range(members) for name, p in wanted.items()}
    tensors = checkpoint.matching(tensors, expected, folder / WEIGHTS)
    return [{name: tensors[_name(i, name)] for name in wanted} for i in range(members)]


def _name(member: int, parameter: str) -> str:
    return f"{member + 1}/{parameter}" if member else parameter


def described(folder: Path) -> dict[str, Any]:
    """config.json of a folder; TrainedError where there is none, or one of another format."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise TrainedError(
            f"there is no folder {folder}: name one that the pipeline trained, as models/run (dvc repro makes it)"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TrainedError(
            f"{folder} holds no trained model, since it has no {CONFIG}: name one as models/run (dvc repro makes it)"
        ) from error
    except (ValueError, OSError) as error:
        raise TrainedError(
            f"{path} cannot be read ({' '.join(str(error).split())}): copy it again, or train it again"
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        what = found.get("format") if isinstance(found, dict) else found
        raise TrainedError(
            f"{path} has format {what!r}, not {FORMAT}: it is of another version of this program; run the stage train again"
        )
    return found
