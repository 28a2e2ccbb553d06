"""A trained model by scikit-learn's conventions (the extra `sklearn`), for a Pipeline, `cross_val_score` or a grid search.

FewShotClassifier("models/run").fit(pictures, labels).predict(others)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from episodic.inference.few_shot import FewShotLearner, as_labels, load


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """`fit` adapts a trained model to the examples; the model's own weights stay as they are.

    model: folder of a trained model, or what `episodic.load` gave; steps: inner steps (None: the method's own); device: as of `load`
    X: what the model takes: a list or array of paths, Pillow images, sentences, or prepared examples `(n, *input)`. Rows of numbers
    `(n, product of input)`, as many parts of scikit-learn make them, are brought to that shape.
    """

    def __init__(self, model: Any = "models/run", steps: int | None = None, device: str = "cpu"):
        self.model, self.steps, self.device = model, steps, device

    def fit(self, X: Any, y: Any) -> FewShotClassifier:
        learner = (
            self.model if isinstance(self.model, FewShotLearner) else load(self.model, self.device)
        )
        self.shape_ = tuple(learner.config["input"])
        self.adapted_ = learner.adapt(self._examples(X), y, self.steps)
        self.classes_ = as_labels(self.adapted_.classes_)
        return self

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "adapted_")
        return self.adapted_.predict(self._examples(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "adapted_")
        return self.adapted_.predict_proba(self._examples(X))

    def _examples(self, X: Any) -> Any:
        if hasattr(X, "to_numpy"):  # a column of pandas
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
