"""What a model forgets when it is adapted to other examples: accuracy before and after."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from episodic.core.registry import did_you_mean
from episodic.inference.adapted import AdaptedModel
from episodic.inference.labels import AdaptError, read_labels, unique_labels

__all__ = ["MIN_EXAMPLES", "Forgetting", "measure_forgetting"]

MIN_EXAMPLES = 10
"""Examples that an interval needs."""


@dataclass(frozen=True)
class Forgetting:
    """Accuracy of two models on the same held-out examples.

    Args:
        classes: The classes of the examples.
        is_new: Whether only the second model has each class.
        labels: Index of the class of each example `(n,)`.
        before: Whether the first model predicts each example correctly `(n,)`, False for examples
            of new classes.
        after: Whether the second model does.
    """

    classes: tuple[Hashable, ...]
    is_new: tuple[bool, ...]
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def is_old(self) -> np.ndarray:
        """Whether each example is of a class that both models have, `(n,)`."""
        is_old: np.ndarray = ~np.array(self.is_new)[self.labels]
        return is_old

    @property
    def change(self) -> float:
        """Accuracy on the old classes after minus before; negative if they are forgotten."""
        old = self.is_old
        return float(self.after[old].mean() - self.before[old].mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of `change`; None for fewer than `MIN_EXAMPLES` examples.

        It is paired: only examples on which the models disagree contribute to its width.

        Source: Alan Agresti, Yongyi Min: Simple improved confidence intervals for comparing matched
        proportions, Statistics in Medicine 2005.
        """
        before, after = self.before[self.is_old], self.after[self.is_old]
        n = len(before) + 2
        if n < MIN_EXAMPLES + 2:
            return None
        gained, lost = (after & ~before).sum() + 0.5, (before & ~after).sum() + 0.5
        centre = (gained - lost) / n
        half = 1.96 * math.sqrt((gained + lost) / n - centre**2) / math.sqrt(n)
        return float(max(centre - half, -1)), float(min(centre + half, 1))

    @property
    def summary(self) -> dict[str, Any]:
        """The results as JSON-serializable values. Accuracies are fractions."""
        old, interval = self.is_old, self.interval
        by_class = {}
        for k, label in enumerate(self.classes):
            rows = self.labels == k
            by_class[str(label)] = {
                "examples": int(rows.sum()),
                "before": None if self.is_new[k] else float(self.before[rows].mean()),
                "after": float(self.after[rows].mean()),
            }
        return {
            "examples": int(old.sum()),
            "before": float(self.before[old].mean()),
            "after": float(self.after[old].mean()),
            "change": self.change,
            "change_low": interval and interval[0],
            "change_high": interval and interval[1],
            "classes": by_class,
        }

    def __str__(self) -> str:
        """The accuracy on old classes before and after, then one line per class."""
        summary, interval = self.summary, self.interval
        listed = ""
        if interval is not None:
            listed = f", 95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"
        lines = [
            f"accuracy on {summary['examples']} held-out examples of old classes:"
            f" {100 * summary['before']:.1f} % before, {100 * summary['after']:.1f} % after"
            f" ({100 * self.change:+.1f}{listed})"
        ]
        width = max(len(name) for name in summary["classes"])
        for name, scores in summary["classes"].items():
            before = "new    " if scores["before"] is None else f"{100 * scores['before']:5.1f} %"
            lines.append(
                f"  {name:<{width}}  {before}  {100 * scores['after']:5.1f} %"
                f"  ({scores['examples']} examples)"
            )
        return "\n".join(lines)


def measure_forgetting(before: AdaptedModel, after: AdaptedModel, x: Any, y: Any) -> Forgetting:
    """Compare two models on held-out examples, such as one before and after it grew.

    Old classes are those that both models have. Classes that only the second one has are new.
    Examples of other classes are left out if the first model has them, since they were removed.

    Transductive models predict the old classes together, and then the new ones.

    Args:
        before: The first model.
        after: The second model, as `before.add` returns it.
        x: Held-out examples, as for `FewShotLearner.adapt`.
        y: A label per example.

    Raises:
        InputError: An example cannot be read.
        AdaptError: Neither model has a label, or no example is of an old class.
    """
    if not (before.classes_ and after.classes_):
        raise AdaptError("a regression model has no classes whose accuracy could be compared")
    x = (before.learner or before).inputs(x)
    labels = read_labels(y, len(x))
    known = {*before.classes_, *after.classes_}
    for label in labels:
        if label not in known:
            names = sorted(map(str, known))
            raise AdaptError(
                f"no model has the class {label!r} of the held-out examples; the classes are"
                f" {', '.join(names)}{did_you_mean(str(label), names)}"
            )
    is_new = {label: label not in before.classes_ for label in after.classes_}
    kept = [i for i, label in enumerate(labels) if label in is_new]
    x, labels = x[kept], [labels[i] for i in kept]
    old = [i for i, label in enumerate(labels) if not is_new[label]]
    if not old:
        raise AdaptError(
            "no held-out example is of a class that the model has before and after: add some"
        )
    correct = np.zeros((2, len(labels)), bool)
    new = [i for i, label in enumerate(labels) if is_new[label]]
    for row, model, index in ((0, before, old), (1, after, old), (1, after, new)):
        if index:
            predicted = model.predict(x[index]).tolist()
            correct[row, index] = [
                label == labels[i] for label, i in zip(predicted, index, strict=True)
            ]
    classes = unique_labels(labels)
    return Forgetting(
        tuple(classes),
        tuple(is_new[label] for label in classes),
        np.array([classes.index(label) for label in labels]),
        *correct,
    )
