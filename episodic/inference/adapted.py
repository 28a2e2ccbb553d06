"""Models adapted to a task: predicting, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.core import checkpoint
from episodic.core.device import choose_device
from episodic.core.episode import Episode
from episodic.core.errors import UserError
from episodic.core.files import atomic_folder
from episodic.core.model import Params
from episodic.inference import suggestion
from episodic.inference.labels import AdaptError, label_array
from episodic.inference.suggestion import DEFAULT_STRATEGY, Suggestions
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.base import Preprocessor
from episodic.preprocessing.encoders.blocks import TunedBlocks
from episodic.preprocessing.encoders.encoder import find_encoder
from episodic.preprocessing.encoders.weights import EncoderDescription
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training import evaluation, model_folder
from episodic.training.calibration import Calibration
from episodic.training.model_folder import CONFIG, ModelFolderError

__all__ = ["AdaptedModel", "build_inputs", "load_adapted"]

SUPPORT, TUNED_BLOCKS = "support.safetensors", "tuned_blocks.safetensors"

CHUNK = 64
"""Number of examples predicted at once by inductive algorithms, whose predictions it does not
affect."""


@dataclass(frozen=True)
class AdaptedModel:
    """A model adapted to one task, returned by `FewShotLearner.adapt` and `load_adapted`.

    Batch norm uses the statistics of the support set. Predictions do not depend on other examples
    of the same call, unless the algorithm is `transductive`: such an algorithm sees all examples of
    a call together, as one query set.

    Args:
        trained: The model that was adapted.
        inputs: The preprocessing of files, images or sentences.
        device: Device of the computation.
        thetas: The adapted parameters of each member of the ensemble, `(1, *shape)`.
        support: The support set, used by metric-based algorithms and batch norm.
        classes_: The labels, in the order of the columns of `predict_proba`. Empty for regression.
    """

    trained: model_folder.TrainedModel
    inputs: Preprocessor
    device: torch.device
    thetas: list[Params]
    support: Episode
    classes_: tuple[Hashable, ...]

    @property
    def config(self) -> dict[str, Any]:
        """The content of the model's config.json."""
        return self.trained.config

    @property
    def transductive(self) -> bool:
        """Whether a prediction depends on the other examples of the same call."""
        return self.trained.learner.test_variant.algorithm.transductive

    @property
    def tuned_blocks(self) -> TunedBlocks | None:
        """The blocks of the image encoder that were fine-tuned on the support set, if any."""
        if not isinstance(self.inputs, EncodedImagePreprocessor):
            return None
        return self.inputs.tuned_blocks

    def predict(self, x: Any) -> np.ndarray:
        """Predict a label per example, or a target for regression.

        If the model is `transductive`, predictions depend on all examples of the call.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.

        Returns:
            Labels or targets `(n,)`.

        Raises:
            InputError: An example cannot be read.
        """
        if not self.classes_:
            return self._predict_outputs(self.inputs(x))[:, 0].numpy()
        return self.most_likely_labels(self.predict_proba(x))

    @cached_property
    def calibration(self) -> Calibration:
        """The scaling of the logits, as it was fitted on validation episodes."""
        return Calibration.from_json(self.config.get("calibration", {}).get("inductive", {}))

    @cached_property
    def shots(self) -> Tensor:
        """The number of support examples of each class `(classes,)`."""
        return self.support.support_y[0].bincount(minlength=len(self.classes_))

    def calibrate(self, outputs: Tensor) -> Tensor:
        """Scale logits `(n, classes)` such that their softmax agrees with frequencies."""
        return self.calibration(outputs, self.shots)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Predict the probability of each class.

        Probabilities are calibrated if the model was calibrated in training.

        If the model is `transductive`, probabilities depend on all examples of the call.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.

        Returns:
            Probabilities `(n, classes)`, with columns in the order of `classes_`.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The model is a regression model.
        """
        if not self.classes_:
            raise AdaptError("a regression model has no class probabilities: use predict")
        outputs = self._predict_outputs(self.inputs(x)).double()
        return self.calibrate(outputs).softmax(-1).numpy()

    def most_likely_labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the most likely label of each row of probabilities `(n, classes)`."""
        labels: np.ndarray = label_array(self.classes_)[probabilities.argmax(1)]
        return labels

    def suggest(
        self, pool: Any, n: int = 10, strategy: str = DEFAULT_STRATEGY, seed: int = 0
    ) -> Suggestions:
        """Suggest which examples of an unlabelled pool to label next.

        The result does not depend on the order of the pool. Examples of the support set, and copies
        of an example, are not suggested. If the model is `transductive`, it predicts the whole pool
        together.

        Args:
            pool: Examples, as for `FewShotLearner.adapt`.
            n: Number of suggestions. There are fewer if the pool has fewer examples.
            strategy: One of `episodic.inference.suggestion.STRATEGIES`.
            seed: Seed of the strategy `random`, and of the part of a large pool that is covered.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The model is a regression model, or `n` or `strategy` is invalid.
        """
        if not self.classes_:
            raise AdaptError("a regression model has no classes whose examples could be suggested")
        return suggestion.suggest(
            self.inputs(pool),
            n,
            strategy,
            seed,
            self._embed,
            self.support.support_x[0],
            self.predict_proba,
            self.classes_,
        )

    def _embed(self, x: Tensor) -> list[Tensor]:
        """Compute the features of preprocessed examples, for each member of the ensemble."""
        with torch.no_grad():
            return [
                torch.cat(
                    [self.features(part.to(self.device), i).cpu() for part in torch.split(x, CHUNK)]
                )
                for i in range(len(self.thetas))
            ]

    def _predict_outputs(self, x: Tensor) -> Tensor:
        heads = self.solve_heads()
        size = max(1, len(x)) if self.transductive else CHUNK
        # Allocated first: results that are kept between large temporary tensors would fragment the
        # memory, which then grows with the number of chunks.
        outputs = torch.empty(len(x), max(1, len(self.classes_)))
        with torch.no_grad():
            for start in range(0, len(x), size):
                chunk = x[start : start + size].to(self.device)
                outputs[start : start + size] = self.outputs(chunk, heads)
        return outputs

    def outputs(self, x: Tensor, heads: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Compute the outputs of the model, averaged over its members.

        Args:
            x: Preprocessed examples `(n, *input)` on the device.
            heads: The result of `solve_heads`, if it is already computed.

        Returns:
            Logits `(n, classes)`, or targets `(n, 1)`.
        """
        learner, episode = self.trained.learner.test_variant, self._with_queries(x)
        if heads is None:
            outputs = [learner.query_outputs(theta, episode) for theta in self.thetas]
        else:
            outputs = [
                self.features(x, member)[None] @ weight + bias
                for member, (weight, bias) in enumerate(heads)
            ]
        return learner.objective.combine_outputs(outputs)[0]

    def features(self, x: Tensor, member: int = 0) -> Tensor:
        """Compute the features, the input of the head.

        Args:
            x: Preprocessed examples `(n, *input)` on the device.
            member: Index of the member of the ensemble.

        Returns:
            Features `(n, width)`.
        """
        learner, theta = self.trained.learner.test_variant, self.thetas[member]
        episode = self._with_queries(x)
        return learner.apply_to_query(learner.model.features, theta, episode, "inductive")[0]

    def solve_heads(self) -> list[tuple[Tensor, Tensor]] | None:
        """Solve for the linear head of each member on the support set.

        Returns:
            Weight `(1, width, classes)` and bias of each member. None for algorithms without a
            closed-form head.
        """
        learner, heads = self.trained.learner.test_variant, []
        with torch.no_grad():
            for theta in self.thetas:
                support = learner.model.features(theta, self.support.support_x)
                head = learner.algorithm.solve_head(theta, support, self.support)
                if head is None:
                    return None
                heads.append(head)
        return heads

    def _with_queries(self, x: Tensor) -> Episode:
        return self.support._replace(query_x=x[None], query_y=self.support.support_y[:, :0])

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load_adapted` reads.

        The folder contains the preprocessed support set, and the fine-tuned blocks of the encoder
        if there are any.

        Args:
            folder: The folder to write. It is replaced if it exists.

        Raises:
            AdaptError: A label is neither a string nor a finite number.
        """
        for label in self.classes_:
            if not isinstance(label, (str, int, float, bool)) or (
                isinstance(label, float) and not math.isfinite(label)
            ):
                raise AdaptError(
                    f"the label {label!r} is a {type(label).__name__}: only text and numbers can be"
                    " written to a file"
                )
        adapted = {"classes": list(self.classes_), "ways": self.support.ways}
        support = {"x": self.support.support_x[0], "y": self.support.support_y[0]}
        with atomic_folder(Path(folder)) as draft:
            model_folder.save(draft, self.thetas, self.config | {"adapted": adapted})
            checkpoint.save(draft / SUPPORT, support, {})
            if self.tuned_blocks is not None:
                self.tuned_blocks.save(draft / TUNED_BLOCKS)


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
    learner = replace(model_folder.build_checked_learner(folder, config), batch_norm="inductive")
    support, classes = _read_support(folder, config)
    meta = {name: p.to(support.support_x.device) for name, p in learner.init(0).items()}
    expected = next(evaluation.adaptation_steps(learner, meta, support, 0))
    thetas = [
        {name: p.to(chosen_device) for name, p in theta.items()}
        for theta in model_folder.read_members(folder, config, expected)
    ]
    base_config = {name: value for name, value in config.items() if name != "adapted"}
    return AdaptedModel(
        model_folder.TrainedModel(learner, [], base_config),
        build_inputs(folder, config, encoder),
        chosen_device,
        thetas,
        support.to(chosen_device),
        classes,
    )


def _read_support(folder: Path, config: dict[str, Any]) -> tuple[Episode, tuple[Hashable, ...]]:
    """Read the support set of an adapted model and its classes."""
    path = folder / SUPPORT
    tensors, _ = checkpoint.load(path)
    adapted = config["adapted"] if isinstance(config["adapted"], dict) else {}
    classes = adapted.get("classes")
    if (
        tensors.keys() != {"x", "y"}
        or not isinstance(classes, list)
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


def build_inputs(
    folder: Path, config: dict[str, Any], encoder: Path | str | None = None
) -> Preprocessor:
    """Build the preprocessing described in config.json.

    Args:
        folder: The folder of the model.
        config: The content of its config.json.
        encoder: File or folder of the pretrained encoder; None to find it.

    Raises:
        ModelFolderError: The section `inputs` is invalid.
        AdaptError: `encoder` is given for a model without one.
        EncoderError: `encoder` does not exist.
    """
    try:
        inputs = dict(config["inputs"])
        if encoder is not None:
            if "encoder" not in inputs:
                raise AdaptError(f"{folder} uses no encoder: omit --encoder, or encoder=")
            is_image = inputs["kind"] == "image"
            inputs["path"] = find_encoder(encoder) if is_image else Path(encoder)
        if "tuned_blocks" in inputs:
            inputs["tuned_blocks"] = TunedBlocks.load(
                folder / TUNED_BLOCKS,
                EncoderDescription.from_json(inputs["encoder"]),
                str(inputs["tuned_blocks"]["digest"]),
            )
        return preprocessing.build(config | {"inputs": inputs})
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFolderError(
            f"{folder / CONFIG}: the section `inputs` is invalid ({error}): copy the model again,"
            " or train it again"
        ) from error
