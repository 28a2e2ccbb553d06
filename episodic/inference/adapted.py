"""Models adapted to a task: predicting, growing, correcting and saving."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from episodic.core import checkpoint
from episodic.core.episode import Episode
from episodic.core.errors import UserError
from episodic.core.files import atomic_folder
from episodic.core.model import Params
from episodic.inference import suggestion
from episodic.inference.heads import CALIBRATED
from episodic.inference.labelled_examples import Change, LabelledExamples
from episodic.inference.labels import AdaptError, expand_labels, unique_labels
from episodic.inference.predictions import UNKNOWN_LABEL, Predictions
from episodic.inference.suggestion import DEFAULT_STRATEGY, Suggestions
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.base import Preprocessor
from episodic.preprocessing.encoders.blocks import TunedBlocks
from episodic.preprocessing.encoders.encoder import find_encoder
from episodic.preprocessing.encoders.weights import EncoderDescription
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training import model_folder
from episodic.training.calibration import Calibration
from episodic.training.conformal import PredictionSets
from episodic.training.model_folder import CONFIG, ModelFolderError
from episodic.training.reliability import (
    Reliability,
    measure_distances,
    read_reliability,
    select_reliability,
)
from episodic.training.unknown import DISTANCES, UnknownDetector, logit_scores

__all__ = ["AdaptedModel", "Learner", "build_inputs", "describe_calibration"]

SUPPORT, TUNED_BLOCKS = "support.safetensors", "tuned_blocks.safetensors"
META, IMAGES = "meta_parameters.safetensors", "images.safetensors"

CHUNK = 64
"""Number of examples predicted at once by inductive algorithms, whose predictions it does not
affect."""


class Learner(Protocol):
    """What adapts a model, such as `FewShotLearner`."""

    @property
    def inputs(self) -> Preprocessor:
        """The preprocessing of the examples to adapt to."""

    @property
    def trained(self) -> model_folder.TrainedModel:
        """The trained model."""

    def adapt(self, support_x: Any, support_y: Any, steps: int | None = None) -> AdaptedModel:
        """Adapt to a task, given its support set."""


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
        learner: What adapted it and can adapt it again. None if the folder that it was loaded from
            lacks the meta-parameters.
        steps: Number of inner steps. None: the default of the algorithm.
        images: The support images as `learner` takes them, uint8 `(n, pixels)`, if it takes others
            than the support set has.
        history: The changes of the support set, in order, from the first adaptation.
    """

    trained: model_folder.TrainedModel
    inputs: Preprocessor
    device: torch.device
    thetas: list[Params]
    support: Episode
    classes_: tuple[Hashable, ...]
    learner: Learner | None = None
    steps: int | None = None
    images: Tensor | None = None
    history: tuple[Change, ...] = ()

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

    def predict(self, x: Any, unknown: bool = False) -> np.ndarray:
        """Predict a label per example, or a target for regression.

        If the model is `transductive`, predictions depend on all examples of the call.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.
            unknown: Whether examples that seem to be of none of the classes get the label
                `UNKNOWN_LABEL`.

        Returns:
            Labels or targets `(n,)`.

        Raises:
            InputError: An example cannot be read.
            AdaptError: `unknown` is True, and the model cannot detect unknown classes, or a class
                has that label.
        """
        if not self.classes_ and not unknown:
            return self._predict_outputs(self.inputs(x))[:, 0].numpy()
        return self.predict_all(x, unknown).labels

    def predict_set(self, x: Any, coverage: float = 0.9) -> list[list[Hashable]]:
        """Predict a set of labels per example that contains the true one as often as promised.

        The promise is that of `PredictionSets`: it holds on average over tasks like those of
        validation, not for each task or class, and not for other kinds of data or unknown classes.
        A set is empty if no class is plausible enough, which happens where the accuracy exceeds the
        coverage.

        If the model is `transductive`, sets depend on all examples of the call.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.
            coverage: The promised probability, from 0.5 to 0.99.

        Returns:
            The labels of each set, the most probable first.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The model has no prediction sets.
            ConfigError: The coverage is out of range.
        """
        self.prediction_sets.find_minimum(coverage)  # reports an invalid one before predicting
        return self.predict_all(x).find_sets(coverage)

    def predict_all(self, x: Any, unknown: bool = False) -> Predictions:
        """Predict probabilities, labels and what prediction sets need, with one pass.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.
            unknown: Whether to detect unknown classes.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The model is a regression model; or `unknown` is True, and it cannot detect
                unknown classes, or a class has the label `UNKNOWN_LABEL`.
        """
        if not self.classes_:
            raise AdaptError("a regression model has no class probabilities: use predict")
        detector = self.detector if unknown else None
        x = self.inputs(x)
        logits = self.calibrate(self._predict_outputs(x).double())
        familiarity = is_unknown = None
        if detector is not None:
            scores = logit_scores(logits)
            if detector.score not in scores:
                scores = self._measure_distances(x)
            familiarity = scores[detector.score]
            is_unknown = (familiarity < detector.threshold).numpy()
        return Predictions(
            self.classes_,
            logits.softmax(-1).numpy(),
            None if familiarity is None else familiarity.numpy(),
            is_unknown,
            None if self.reliability is None else self.reliability.sets,
        )

    @cached_property
    def reliability(self) -> Reliability | None:
        """How far predictions can be trusted; None if nothing is known.

        It was learned on validation episodes, of those sizes the one that is closest to the task;
        for a head on an encoder, on its support set.
        """
        fitted = read_reliability(self.config)
        ways = max(1, len(self.classes_))
        return select_reliability(fitted, ways, self.support.support_y.shape[1] / ways)

    @property
    def calibration(self) -> Calibration:
        """The scaling of the logits; without a calibration, one that changes nothing."""
        fitted = self.reliability
        return (fitted and fitted.calibration) or Calibration()

    @property
    def calibrated_on(self) -> str | None:
        """What the calibration was fitted on; None if probabilities are not calibrated.

        `validation episodes` of meta-training, or `left-out support examples` for a head on an
        encoder.
        """
        return describe_calibration(self.config)

    @property
    def detects_unknown(self) -> bool:
        """Whether the model can detect unknown classes."""
        fitted = self.reliability
        return bool(fitted and fitted.unknown) and UNKNOWN_LABEL not in self.classes_

    @property
    def unknown_note(self) -> str | None:
        """Why the model cannot detect unknown classes; None if it can."""
        try:
            self.detector  # noqa: B018
        except AdaptError as error:
            return str(error)
        return None

    @property
    def detector(self) -> UnknownDetector:
        """The detection of unknown classes.

        Raises:
            AdaptError: The model has none, or a class has the label `UNKNOWN_LABEL`.
        """
        if UNKNOWN_LABEL in self.classes_:
            raise AdaptError(
                f"a class has the label {UNKNOWN_LABEL!r}, which examples of unknown classes would"
                " get: rename the class and adapt again"
            )
        fitted = self.reliability
        if fitted is None or fitted.unknown is None:
            raise AdaptError(f"the model cannot detect unknown classes: {self._explain_absence()}")
        return fitted.unknown

    @property
    def prediction_sets(self) -> PredictionSets:
        """What prediction sets are built with.

        Raises:
            AdaptError: The model has none.
        """
        fitted = self.reliability
        if fitted is None or fitted.sets is None:
            raise AdaptError(f"the model has no prediction sets: {self._explain_absence()}")
        return fitted.sets

    @property
    def reliability_note(self) -> str | None:
        """How this task differs in size from the episodes of `reliability`; None if it does not."""
        fitted = self.reliability
        if fitted is None or "head" in self.config:  # a head has learned it on this very task
            return None
        ways, low, high = len(self.classes_), int(self.shots.min()), int(self.shots.max())
        if (ways, low, high) == (fitted.ways, fitted.shots, fitted.shots):
            return None
        count = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"calibrated on {fitted.ways}-way {fitted.shots}-shot episodes; this task has"
            f" {ways} classes with {count} example{'' if high == 1 else 's'} each:"
            " probabilities, the threshold for unknown classes and the coverage of prediction sets"
            " are approximate"
        )

    def _explain_absence(self) -> str:
        """Explain why something was not learned on validation episodes, and what to do."""
        if not self.classes_:
            return "it is a regression model"
        if "head" in self.config:
            if self.config["head"] not in CALIBRATED:
                return f"of the heads, only {', '.join(CALIBRATED)} have this: choose one of them"
            if self.reliability is None:
                return "a class has one example: add a second one of each class"
            if self.reliability.sets is None:
                return "an earlier version adapted it. Adapt it again"
            return (
                "one class is left out to learn what is unknown, so at least three distinct classes"
                " are needed: add a class, or correct labels if classes have the same examples"
            )
        if self.reliability is None:
            return "an earlier version trained it. Train it again"
        return (
            "its validation episodes had no queries of unknown classes. Train it again with"
            " episodes.open above 0 in params.yaml"
        )

    @cached_property
    def shots(self) -> Tensor:
        """The number of support examples of each class `(classes,)`."""
        return self.support.support_y[0].bincount(minlength=len(self.classes_))

    def calibrate(self, outputs: Tensor) -> Tensor:
        """Scale logits `(n, classes)` such that their softmax agrees with frequencies."""
        return self.calibration(outputs, self.shots)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Predict the probability of each class.

        They are calibrated unless `calibrated_on` is None.

        If the model is `transductive`, probabilities depend on all examples of the call.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.

        Returns:
            Probabilities `(n, classes)`, with columns in the order of `classes_`.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The model is a regression model.
        """
        return self.predict_all(x).probabilities

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
        size = max(1, len(x)) if self.transductive else CHUNK
        # Allocated first: results that are kept between large temporary tensors would fragment the
        # memory, which then grows with the number of chunks.
        outputs = torch.empty(len(x), max(1, len(self.classes_)))
        with torch.no_grad():
            for start in range(0, len(x), size):
                chunk = x[start : start + size].to(self.device)
                outputs[start : start + size] = self.outputs(chunk)
        return outputs

    def _measure_distances(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the scores of `measure_distances`, averaged over the members, each `(n,)`."""
        scores = {name: torch.empty(len(x), dtype=torch.float64) for name in DISTANCES}
        with torch.no_grad():
            for start in range(0, len(x), CHUNK):
                chunk = x[start : start + CHUNK].to(self.device)
                for name, values in self.distances(chunk).items():
                    scores[name][start : start + CHUNK] = values
        return scores

    def distances(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the scores of `measure_distances`, averaged over the members of the model.

        Args:
            x: Preprocessed examples `(n, *input)` on the device.

        Returns:
            Each of `DISTANCES`, `(n,)`.
        """
        learner, episode = self.trained.learner.test_variant, self._with_queries(x)
        of_members = [measure_distances(learner, theta, episode) for theta in self.thetas]
        return {
            name: torch.stack([values[name] for values in of_members]).mean(0)[0]
            for name in DISTANCES
        }

    def outputs(self, x: Tensor) -> Tensor:
        """Compute the outputs of the model, averaged over its members.

        Args:
            x: Preprocessed examples `(n, *input)` on the device.

        Returns:
            Logits `(n, classes)`, or targets `(n, 1)`.
        """
        learner, episode = self.trained.learner.test_variant, self._with_queries(x)
        if self.heads is None:
            outputs = [learner.query_outputs(theta, episode) for theta in self.thetas]
        else:
            outputs = [
                self.features(x, member)[None] @ weight + bias
                for member, (weight, bias) in enumerate(self.heads)
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

    @cached_property
    def heads(self) -> list[tuple[Tensor, Tensor]] | None:
        """The linear head of each member, solved on the support set when it is first used.

        Weight `(1, width, classes)` and bias. None for algorithms without a closed-form head.
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

    @property
    def examples(self) -> LabelledExamples:
        """The support set, as labelled examples that can be changed."""
        x = self.support.support_x[0].cpu() if self.images is None else self.images
        y = self.support.support_y[0].tolist()
        labels = [self.classes_[k] for k in y] if self.classes_ else [target for (target,) in y]
        name = self.inputs.example_name
        return LabelledExamples(x, tuple(labels), self.history, bool(self.classes_), name)

    def add(self, x: Any, labels: Any) -> AdaptedModel:
        """Adapt to more examples, of known or new classes.

        The result is exactly that of adapting the trained model to the old examples, followed by
        the new ones. An example that the model already has counts twice, as it would there.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.
            labels: The label of all of them, or one label per example. For regression, targets.

        Returns:
            Another adapted model. This one does not change.

        Raises:
            InputError: An example cannot be read.
            AdaptError: An example has another label already, the model cannot adapt to this number
                of classes, or it lacks its meta-parameters.
        """
        x = self._require_learner().inputs(x)
        return self.adapt_to(self.examples.add(x, expand_labels(labels, len(x))))

    def remove(self, label: Hashable) -> AdaptedModel:
        """Forget a class: adapt to the examples of the other classes.

        Args:
            label: The class.

        Returns:
            Another adapted model. This one does not change.

        Raises:
            AdaptError: There is no such class, the model cannot adapt to this number of classes, or
                it lacks its meta-parameters.
        """
        return self.adapt_to(self.examples.remove(label))

    def correct(self, x: Any, labels: Any) -> AdaptedModel:
        """Adapt to the right labels of examples, such as those with a wrong prediction.

        An example that the model has with another label gets the right one. An example that the
        model does not have is added. An example that the model has with the right label changes
        nothing: more examples of the class may help.

        Args:
            x: Examples, as for `FewShotLearner.adapt`.
            labels: The right label of all of them, or one label per example. The classes must be
                known. For regression, targets.

        Returns:
            Another adapted model, or this one if nothing changes.

        Raises:
            InputError: An example cannot be read.
            AdaptError: A label is unknown, a class would have no example left, or the model lacks
                its meta-parameters.
        """
        x = self._require_learner().inputs(x)
        examples = self.examples
        corrected = examples.correct(x, expand_labels(labels, len(x)))
        return self if corrected is examples else self.adapt_to(corrected)

    def adapt_to(self, examples: LabelledExamples) -> AdaptedModel:
        """Adapt the trained model anew, with the same number of inner steps.

        The support examples are not preprocessed again.

        Args:
            examples: The labelled examples, changed from `examples` of this model.

        Raises:
            AdaptError: Fewer than two classes are left, the model cannot adapt to their number, or
                it lacks its meta-parameters.
        """
        learner = self._require_learner()
        if self.classes_ and len(left := unique_labels(examples.labels)) < 2:
            listed = f"only {left[0]!r}" if left else "none"
            raise AdaptError(
                f"of the classes, {listed} would be left: an adapted model needs at least two, so"
                " add another class first"
            )
        adapted = learner.adapt(examples.x, list(examples.labels), self.steps)
        return replace(adapted, history=examples.history)

    def _require_learner(self) -> Learner:
        if self.learner is None:
            raise AdaptError(
                "the adapted model lacks the meta-parameters that a change of its examples needs,"
                " since an earlier version wrote its folder: adapt the trained model to all"
                " examples instead"
            )
        return self.learner

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load_adapted` reads.

        The folder contains the preprocessed support set, the meta-parameters that differ from the
        adapted ones, and the fine-tuned blocks of the encoder with the support images if there are
        any.

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
        adapted: dict[str, Any] = {"classes": list(self.classes_), "ways": self.support.ways}
        support = {"x": self.support.support_x[0], "y": self.support.support_y[0]}
        meta = self._changed_meta_parameters()
        if self.learner is not None:
            adapted["history"] = [change.to_json() for change in self.history]
            adapted["meta_parameters"] = len(meta)
        if self.steps is not None:
            adapted["steps"] = self.steps
        with atomic_folder(Path(folder)) as draft:
            model_folder.save(draft, self.thetas, self.config | {"adapted": adapted})
            checkpoint.save(draft / SUPPORT, support, {})
            if self.tuned_blocks is not None:
                self.tuned_blocks.save(draft / TUNED_BLOCKS)
            if meta:
                checkpoint.save(draft / META, meta, {})
            if self.images is not None:
                checkpoint.save(draft / IMAGES, {"x": self.images}, {})

    def _changed_meta_parameters(self) -> dict[str, Tensor]:
        """Return the meta-parameters that the adapted parameters do not contain unchanged."""
        if self.learner is None:
            return {}
        return {
            model_folder.tensor_name(i, name): p
            for i, (meta, theta) in enumerate(
                zip(self.learner.trained.members, self.thetas, strict=True)
            )
            for name, p in meta.items()
            if name not in theta or not torch.equal(theta[name][0].cpu(), p.cpu())
        }


def describe_calibration(config: dict[str, Any]) -> str | None:
    """Return what the probabilities of a model are calibrated on, as `calibrated_on`.

    Args:
        config: The content of its config.json.
    """
    if not any(fitted.calibration for fitted in read_reliability(config)):
        return None
    return "left-out support examples" if "head" in config else "validation episodes"


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
