"""A trained model as a scikit-learn classifier (the extra `sklearn`).

It can be used in a Pipeline, `cross_val_score` or a grid search:

    FewShotClassifier("models/run").fit(images, labels).predict(query_images)
    FewShotClassifier(encoder="efficientnet_lite0").fit(images, labels).predict(query_images)
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from episodic.inference.few_shot import FewShotLearner, load
from episodic.inference.heads import DEFAULT_HEAD
from episodic.inference.labels import AdaptError, label_array
from episodic.inference.pretrained import from_encoder

__all__ = ["FewShotClassifier"]


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose `fit` adapts a trained model without modifying its weights.

    Examples are a list or an array of paths, Pillow images or sentences, or preprocessed examples
    `(n, *input)`. Matrices `(n, prod(input))`, which many components of scikit-learn produce, are
    reshaped to `(n, *input)`.

    Args:
        model: The folder of a trained model, or a `FewShotLearner`. None: models/run, unless
            `encoder` is given, which excludes it.
        steps: Number of inner steps. None: the default of the algorithm.
        device: As for `load`.
        encoder: A pretrained image encoder to use without a trained model, as for `from_encoder`.
        head: The head on the features of `encoder`, as for `from_encoder`. None: the default.
        unknown: Whether `predict` returns the label `unknown` for examples that seem to be of none
            of the classes, as for `AdaptedModel.predict`.
    """

    def __init__(
        self,
        model: Any = None,
        steps: int | None = None,
        device: str = "cpu",
        encoder: Any = None,
        head: Any = None,
        unknown: bool = False,
    ) -> None:
        self.model, self.steps, self.device = model, steps, device
        self.encoder, self.head, self.unknown = encoder, head, unknown

    def fit(self, X: Any, y: Any) -> FewShotClassifier:
        """Adapt the model to labelled examples.

        Args:
            X: Examples `(n,)` or `(n, ...)`.
            y: A label per example.

        Raises:
            ModelFolderError: `model` is not the folder of a trained model.
            EncoderError: There is no such encoder.
            AdaptError: Both `model` and `encoder` are given, `head` without `encoder`, or the model
                cannot adapt to these examples.
        """
        learner = self._load_learner()
        self.shape_ = tuple(learner.config["input"])
        self.adapted_ = learner.adapt(self._examples(X), y, self.steps)
        self.classes_ = label_array(self.adapted_.classes_)
        return self

    def partial_fit(self, X: Any, y: Any) -> FewShotClassifier:
        """Adapt to more labelled examples, in addition to those of earlier calls.

        The result is exactly that of `fit` on the examples of all calls, in their order. Unlike
        other classifiers of scikit-learn, this one needs no list of all classes at the first call:
        new classes may come at any time, if the algorithm supports their number. The first call
        needs examples of at least two.

        Args:
            X: Examples `(n,)` or `(n, ...)`.
            y: A label per example.

        Raises:
            AdaptError: As for `fit`, or an example has another label already.
        """
        if not hasattr(self, "adapted_"):
            return self.fit(X, y)
        self.adapted_ = self.adapted_.add(self._examples(X), list(y))
        self.classes_ = label_array(self.adapted_.classes_)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict labels `(n,)`. If the algorithm is transductive, they depend on all of X.

        Raises:
            AdaptError: `unknown` is True, and the model cannot detect unknown classes, or a class
                has the label `unknown`.
        """
        check_is_fitted(self, "adapted_")
        return self.adapted_.predict(self._examples(X), self.unknown)

    def predict_set(self, X: Any, coverage: float = 0.9) -> list[list[Hashable]]:
        """Predict a set of labels per example, as `AdaptedModel.predict_set`.

        Args:
            X: Examples `(n,)` or `(n, ...)`.
            coverage: The promised probability that a set contains the true label, from 0.5 to 0.99.

        Raises:
            AdaptError: The model has no prediction sets.
            ConfigError: The coverage is out of range.
        """
        check_is_fitted(self, "adapted_")
        return self.adapted_.predict_set(self._examples(X), coverage)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict probabilities `(n, classes)`, with columns in the order of `classes_`.

        If the algorithm is transductive, they depend on all of X.
        """
        check_is_fitted(self, "adapted_")
        return self.adapted_.predict_proba(self._examples(X))

    def _load_learner(self) -> FewShotLearner:
        if self.encoder is not None:
            if self.model is not None:
                raise AdaptError("model and encoder are mutually exclusive: pass one of them")
            head = DEFAULT_HEAD if self.head is None else self.head
            return from_encoder(self.encoder, head, self.device)
        if self.head is not None:
            raise AdaptError(f"head is {self.head!r}; it must be omitted without encoder")
        if isinstance(self.model, FewShotLearner):
            return self.model
        return load("models/run" if self.model is None else self.model, self.device)

    def _examples(self, X: Any) -> Any:
        if hasattr(X, "to_numpy"):  # a pandas column
            X = X.to_numpy()
        if not isinstance(X, np.ndarray):
            return X
        if X.dtype.kind in "OUS":
            return X.ravel().tolist()
        return X.reshape(len(X), *self.shape_) if X.shape[1:] == (np.prod(self.shape_),) else X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.three_d_array = tags.input_tags.string = True
        return tags
