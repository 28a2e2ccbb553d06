"""Loading of adapted models from the folder that `AdaptedModel.save` wrote."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from episodic.core import checkpoint
from episodic.core.config import ConfigError
from episodic.core.device import choose_device
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.inference.adapted import IMAGES, META, SUPPORT, AdaptedModel, build_inputs
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.labelled_examples import Change
from episodic.inference.partial_finetune import PartialFineTuning, PartialFineTuningLearner
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training import evaluation, model_folder
from episodic.training.config import MAX_INNER_STEPS
from episodic.training.model_folder import CONFIG, ModelFolderError

__all__ = ["load_adapted", "read_history"]


def load_adapted(
    folder: Path | str, device: str = "cpu", encoder: Path | str | None = None
) -> AdaptedModel:
    """Load an adapted model from the folder that `AdaptedModel.save` wrote.

    Args:
        folder: The folder.
        device: `cpu`, `cuda`, `mps` or `auto`, as for `choose_device`.
        encoder: File or folder of the pretrained encoder, as for `load`.

    Raises:
        ModelFolderError: The folder does not contain a valid adapted model.
        CheckpointError: The weights are incompatible with config.json.
        AdaptError: `encoder` is given for a model without one.
        EncoderError: `encoder` does not exist.
        ConfigError: The device is not available.
    """
    folder, chosen_device = Path(folder), choose_device(device)
    config = model_folder.read_config(folder, "a folder that `episodic adapt` wrote")
    if "adapted" not in config:
        raise ModelFolderError(
            f"{folder} is a model that is not adapted to a task yet: adapt it first"
            f" (`episodic adapt {folder} ...`)"
        )
    learner = model_folder.build_checked_learner(folder, config)
    inductive = replace(learner, batch_norm="inductive")
    support, classes = _read_support(folder, config)
    initial = learner.init(0)
    expected = next(evaluation.adaptation_steps(inductive, initial, support, 0))
    thetas = model_folder.read_members(folder, config, expected)
    base_config = {name: value for name, value in config.items() if name != "adapted"}
    inputs = build_inputs(folder, config, encoder)
    adapted = AdaptedModel(
        model_folder.TrainedModel(inductive, [], base_config),
        inputs,
        chosen_device,
        [{name: p.to(chosen_device) for name, p in theta.items()} for theta in thetas],
        support.to(chosen_device),
        classes,
        steps=_read_steps(folder, config),
        history=read_history(folder, config),
    )
    if not adapted.history:  # an earlier version wrote the folder, which may lack meta-parameters
        return adapted
    members = _read_meta_parameters(folder, config, initial, thetas)
    if isinstance(inputs, EncodedImagePreprocessor) and inputs.tuned_blocks is not None:
        return _attach_fine_tuning(adapted, inputs, folder, members)
    trained = model_folder.TrainedModel(learner, members, base_config)
    return replace(adapted, learner=FewShotLearner(trained, inputs, chosen_device))


def _read_support(folder: Path, config: dict[str, Any]) -> tuple[Episode, tuple[Hashable, ...]]:
    """Read the support set of an adapted model and its classes."""
    path = folder / SUPPORT
    tensors, _ = checkpoint.load(path)
    adapted = _get_section(config)
    classes = adapted.get("classes")
    if (
        tensors.keys() != {"x", "y"}
        or not isinstance(classes, list)
        or len(set(map(str, classes))) < len(classes)
        or not _is_support(tensors["x"], tensors["y"], len(classes), config)
    ):
        raise ModelFolderError(
            f"{path} does not match the support set described in {folder / CONFIG}: adapt again"
        )
    x, y = tensors["x"][None], tensors["y"][None]
    ways = len(classes) if adapted.get("ways") else 0
    return Episode(x, y, x[:, :0], y[:, :0], ways), tuple(classes)


def _is_support(x: Tensor, y: Tensor, classes: int, config: dict[str, Any]) -> bool:
    """Return whether examples and labels form a valid support set of the model."""
    is_valid = (
        x.shape[1:] == tuple(config["input"])
        and len(x) == len(y) > 0
        and bool(x.isfinite().all())
        and bool(y.isfinite().all())
    )
    if not is_valid or not classes:
        return is_valid and y.shape == (len(x), 1)
    is_labels = y.dim() == 1 and y.dtype == torch.int64
    return is_labels and sorted(set(y.tolist())) == list(range(classes))


def read_history(folder: Path, config: dict[str, Any]) -> tuple[Change, ...]:
    """Read the changes of the support set of an adapted model. Earlier versions recorded none.

    Args:
        folder: The folder of the model.
        config: The content of its config.json.

    Raises:
        ModelFolderError: The history is invalid.
    """
    changes = _get_section(config).get("history", [])
    try:
        if not isinstance(changes, list):
            raise ValueError("it must be a list")
        return tuple(map(Change.from_json, changes))
    except ValueError as error:
        raise ModelFolderError(
            f"{folder / CONFIG}: the history is invalid ({error}): adapt again"
        ) from error


def _read_steps(folder: Path, config: dict[str, Any]) -> int | None:
    """Read the number of inner steps, None for the default of the algorithm."""
    steps = _get_section(config).get("steps")
    if steps is not None and not (type(steps) is int and 0 <= steps <= MAX_INNER_STEPS):
        raise ModelFolderError(
            f"{folder / CONFIG}: steps is {steps!r}; it must be between 0 and {MAX_INNER_STEPS}"
        )
    return steps


def _get_section(config: dict[str, Any]) -> dict[str, Any]:
    return config["adapted"] if isinstance(config["adapted"], dict) else {}


def _read_meta_parameters(
    folder: Path, config: dict[str, Any], initial: Params, thetas: list[Params]
) -> list[Params]:
    """Read the meta-parameters: those of the file, and others from the adapted parameters.

    Args:
        folder: The folder.
        config: The content of its config.json.
        initial: Meta-parameters with the expected names and shapes.
        thetas: The adapted parameters of each member of the ensemble.
    """
    path, count = folder / META, config["adapted"].get("meta_parameters", 0)
    stored = checkpoint.load(path)[0] if count or path.exists() else {}
    if len(stored) != count:
        raise ModelFolderError(
            f"{path} has {len(stored)} tensors, and {folder / CONFIG} names {count!r}: adapt again"
        )
    named = [
        {name: model_folder.tensor_name(i, name) for name in initial} for i in range(len(thetas))
    ]
    expected = {
        key: initial[name]
        for names, theta in zip(named, thetas, strict=True)
        for name, key in names.items()
        if key in stored or name not in theta or theta[name].shape[1:] != initial[name].shape
    }
    stored = checkpoint.match_tensors(stored, expected, path)
    return [
        {name: stored[key] if key in stored else theta[name][0] for name, key in names.items()}
        for names, theta in zip(named, thetas, strict=True)
    ]


def _attach_fine_tuning(
    adapted: AdaptedModel, encoded: EncodedImagePreprocessor, folder: Path, members: list[Params]
) -> AdaptedModel:
    """Return the model with its support images, and with what fine-tunes its encoder again.

    Args:
        adapted: The model with the fine-tuned encoder.
        encoded: Its preprocessing.
        folder: Its folder.
        members: The meta-parameters of its head.
    """
    tensors, _ = checkpoint.load(folder / IMAGES)
    images = tensors.get("x", torch.empty(0))
    settings = adapted.config.get("fine_tuning")
    expected = (adapted.support.support_x.shape[1], *encoded.crops.input)
    if images.dtype != torch.uint8 or images.shape != expected or not isinstance(settings, dict):
        raise ModelFolderError(
            f"{folder / IMAGES} does not match the support set described in {folder / CONFIG}:"
            " adapt again"
        )
    config = {name: value for name, value in adapted.config.items() if name != "fine_tuning"}
    inputs = {name: value for name, value in config["inputs"].items() if name != "tuned_blocks"}
    try:
        learner = PartialFineTuningLearner(
            replace(adapted.trained, members=members, config=config | {"inputs": inputs}),
            encoded.crops,
            adapted.device,
            replace(encoded, tuned_blocks=None),
            PartialFineTuning(**settings),
        )
    except (ConfigError, TypeError) as error:
        raise ModelFolderError(
            f"{folder / CONFIG}: the section `fine_tuning` is invalid ({error}): adapt again"
        ) from error
    return replace(adapted, learner=learner, images=images)
