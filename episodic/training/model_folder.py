"""A folder with a trained meta-learner: `weights.safetensors` and `config.json`.

config.json describes the model, the algorithm and the preprocessing (`inputs`, see
`episodic.preprocessing`). The folder contains no data, pickles or code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from episodic.core import checkpoint
from episodic.core.config import ConfigError
from episodic.core.errors import UserError
from episodic.core.files import write_json
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS, MODELS, Registry
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.training.reliability import read_reliability

__all__ = [
    "ModelFolderError",
    "TrainedModel",
    "build_baseline_learner",
    "build_checked_learner",
    "build_learner",
    "load",
    "read_config",
    "read_members",
    "save",
    "tensor_name",
]

FORMAT = 2
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
MAX_MEMBERS = 1000


class ModelFolderError(UserError, ValueError):
    """The folder does not contain a valid model."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained meta-learner.

    Args:
        learner: The model, the algorithm and the objective.
        members: Meta-parameters without a task axis, the best first. More than one form an
            ensemble.
        config: The content of config.json.
    """

    learner: MetaLearner
    members: list[Params]
    config: dict[str, Any]


def build_learner(config: dict[str, Any]) -> MetaLearner:
    """Build the meta-learner that a config.json describes.

    Raises:
        ConfigError: A setting is out of range, or two settings are incompatible.
    """
    algorithm = _read_section(ALGORITHMS, config["algorithm"])
    outputs = (
        algorithm.count_model_outputs(config["ways"], config["classes"])
        if config["kind"] == "classification"
        else 1
    )
    return _build(config, algorithm, outputs)


def build_baseline_learner(config: dict[str, Any]) -> MetaLearner:
    """Build the same model with the base algorithm and one output per class of a test episode."""
    return _build(config, Algorithm(), config["ways"] if config["kind"] == "classification" else 1)


def _build(config: dict[str, Any], algorithm: Algorithm, outputs: int) -> MetaLearner:
    model = _read_section(MODELS, config["model"]).build(tuple(config["input"]), outputs)
    return MetaLearner(model, algorithm, Objective(config["kind"]), config["batch_norm"])


def _read_section(registry: Registry, section: dict[str, Any]) -> Any:
    """Build an instance of the registered class from the settings of a section."""
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in section.items()
        if key != "name"
    }
    return registry[section["name"]](**settings)


def save(folder: Path, members: list[Params], config: dict[str, Any]) -> None:
    """Write the weights and config.json, adding `format` and `ensemble` to the config.

    Args:
        folder: The folder to write to.
        members: As in `TrainedModel`.
        config: As in `TrainedModel`.
    """
    # An interruption must not leave a config.json with weights of another model.
    (folder / CONFIG).unlink(missing_ok=True)
    checkpoint.save(
        folder / WEIGHTS,
        {tensor_name(i, name): p for i, member in enumerate(members) for name, p in member.items()},
        {},
    )
    write_json(folder / CONFIG, config | {"format": FORMAT, "ensemble": len(members)})


def load(folder: Path, device: torch.device | str = "cpu") -> TrainedModel:
    """Read a model written by `save`.

    Raises:
        ModelFolderError: The folder does not exist, or its config.json is invalid.
        CheckpointError: The weights are missing or incompatible with config.json.
    """
    config = read_config(folder)
    learner = build_checked_learner(folder, config)
    return TrainedModel(learner, read_members(folder, config, learner.init(0), device), config)


def build_checked_learner(folder: Path, config: dict[str, Any]) -> MetaLearner:
    """Like `build_learner`, but validate an untrusted config.json.

    Raises:
        ModelFolderError: The config does not describe a model.
    """
    path = folder / CONFIG
    try:
        learner = build_learner(config)
        learner.init(0)
        for mode in ("inductive", *config.get("reliability", {})):
            read_reliability(config, mode)
        return learner
    except ConfigError as error:
        raise ModelFolderError(f"{path}: {error}") from error
    except KeyError as error:
        raise ModelFolderError(
            f"{path} lacks {error}: copy the model again, or train it again"
        ) from error
    except (TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ModelFolderError(
            f"{path} does not describe a model ({reason}): copy it again, or train it again"
        ) from error


def read_members(
    folder: Path, config: dict[str, Any], expected: Params, device: torch.device | str = "cpu"
) -> list[Params]:
    """Read the parameters of each member of the ensemble.

    Args:
        folder: The folder of the model.
        config: The content of its config.json.
        expected: Parameters with the names and shapes that each member must have.
        device: Device of the parameters.

    Raises:
        ModelFolderError: `ensemble` in config.json is out of range.
        CheckpointError: The weights are missing or incompatible with `expected`.
    """
    members = config.get("ensemble")
    if type(members) is not int or not 1 <= members <= MAX_MEMBERS:
        raise ModelFolderError(
            f"{folder / CONFIG}: ensemble is {members!r}; it must be between 1 and {MAX_MEMBERS}"
        )
    tensors, _ = checkpoint.load(folder / WEIGHTS, device)
    all_expected = {tensor_name(i, name): p for i in range(members) for name, p in expected.items()}
    tensors = checkpoint.match_tensors(tensors, all_expected, folder / WEIGHTS)
    return [{name: tensors[tensor_name(i, name)] for name in expected} for i in range(members)]


def tensor_name(member: int, parameter: str) -> str:
    """Return the name of a parameter of a member of the ensemble in the file of weights."""
    return f"{member + 1}/{parameter}" if member else parameter


def read_config(
    folder: Path, expected: str = "a folder such as models/run, which `dvc repro` creates"
) -> dict[str, Any]:
    """Read config.json from the folder of a model.

    Args:
        folder: The folder.
        expected: What to specify instead of a folder without a model, for error messages.

    Raises:
        ModelFolderError: The file is missing or invalid, or has a different format.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} does not exist: specify {expected}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{folder} contains no model, because it has no {CONFIG}: specify {expected}"
        ) from error
    except (ValueError, OSError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({' '.join(str(error).split())}): copy it again, or train it"
            " again"
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        version = config.get("format") if isinstance(config, dict) else config
        raise ModelFolderError(
            f"{path} has format {version!r}, not {FORMAT}: it was written by a different version of"
            " this program; run the stage train again"
        )
    return config
