"""The predictions of one call: probabilities, labels, unknown classes and prediction sets."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from episodic.inference.labels import label_array
from episodic.training.conformal import PredictionSets

__all__ = ["UNKNOWN_LABEL", "Predictions"]

UNKNOWN_LABEL = "unknown"
"""The label of examples that seem to be of none of the classes."""


@dataclass(frozen=True)
class Predictions:
    """What an adapted model says about examples, returned by `AdaptedModel.predict_all`.

    Args:
        classes: The labels, in the order of the columns.
        probabilities: Class probabilities `(n, classes)`.
        familiarity: The score of unknown classes, higher for examples that resemble those of a
            class `(n,)`. None if it was not asked for.
        is_unknown: Whether the score is below the threshold of the model `(n,)`. None likewise.
        fitted_sets: What the prediction sets are built with. None if the model has none.
    """

    classes: tuple[Hashable, ...]
    probabilities: np.ndarray
    familiarity: np.ndarray | None = None
    is_unknown: np.ndarray | None = None
    fitted_sets: PredictionSets | None = None

    @property
    def labels(self) -> np.ndarray:
        """The most likely label of each example `(n,)`, or `UNKNOWN_LABEL` where it is unknown."""
        chosen = self.probabilities.argmax(1)
        if self.is_unknown is None:
            labels: np.ndarray = label_array(self.classes)[chosen]
            return labels
        with_unknown: np.ndarray = label_array([*self.classes, UNKNOWN_LABEL])
        return with_unknown[np.where(self.is_unknown, len(self.classes), chosen)]

    def find_members(self, coverage: float) -> np.ndarray:
        """Compute which classes are in the prediction set of each example.

        Args:
            coverage: The promised probability, from 0.5 to 0.99.

        Returns:
            bool `(n, classes)`.

        Raises:
            ConfigError: The coverage is out of range.
            ValueError: The model has no prediction sets.
        """
        if self.fitted_sets is None:
            raise ValueError("the model has no prediction sets")
        members: np.ndarray = self.fitted_sets(
            torch.from_numpy(self.probabilities), coverage
        ).numpy()
        return members

    def find_sets(self, coverage: float) -> list[list[Hashable]]:
        """Return the labels of the prediction set of each example, the most probable first.

        Args:
            coverage: As for `find_members`.

        Raises:
            ConfigError: The coverage is out of range.
            ValueError: The model has no prediction sets.
        """
        order = np.argsort(-self.probabilities, axis=1, kind="stable")
        return [
            [self.classes[k] for k in ranked if row[k]]
            for ranked, row in zip(order.tolist(), self.find_members(coverage), strict=True)
        ]

    def to_json(self, coverage: float | None = None) -> list[dict[str, Any]]:
        """Return the prediction for each example as JSON-serializable values.

        Args:
            coverage: As for `find_members`. None: without prediction sets.

        Returns:
            `label`, `probabilities` by class, `familiarity` if it was asked for, and `set`.

        Raises:
            ConfigError: The coverage is out of range.
            ValueError: The model has no prediction sets.
        """
        names = [str(label) for label in self.classes]
        entries: list[dict[str, Any]] = [
            {"label": label, "probabilities": dict(zip(names, row, strict=True))}
            for label, row in zip(self.labels.tolist(), self.probabilities.tolist(), strict=True)
        ]
        if self.familiarity is not None:
            for entry, familiarity in zip(entries, self.familiarity.tolist(), strict=True):
                entry["familiarity"] = familiarity
        if coverage is not None:
            for entry, labels in zip(entries, self.find_sets(coverage), strict=True):
                entry["set"] = labels
        return entries
