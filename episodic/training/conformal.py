"""Conformal prediction: sets of labels that contain the true one as often as promised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from episodic.core.config import require

__all__ = ["COVERAGES", "PredictionSets", "fit_prediction_sets"]

COVERAGES = tuple(percent / 100 for percent in range(50, 100))
"""The coverages that can be promised."""


@dataclass(frozen=True)
class PredictionSets:
    """The prediction sets of a classifier: all classes with at least a minimum probability.

    The promise: for a new task drawn like the calibration tasks, and a random query of one of its
    classes, the set contains the true class with at least the chosen probability. The promise is
    marginal, over tasks and their queries: a single task, or a single class, may be covered less.
    It requires tasks of the same size that are exchangeable with the calibration tasks. It fails if
    new tasks are harder, such as other kinds of images, and says nothing of examples of no class.
    If few classes are in all calibration tasks, tasks of other classes may be covered more or less
    (docs/results/reliability.md).

    If the accuracy exceeds the coverage, sets of ambiguous queries are empty.

    Args:
        minimum: The minimum probability for each of `COVERAGES`, in descending order.
        tasks: Number of calibration tasks.

    Sources: Vladimir Vovk, Alex Gammerman, Glenn Shafer: Algorithmic Learning in a Random World,
    2005 (split conformal prediction). Mauricio Sadinle, Jing Lei, Larry Wasserman: Least Ambiguous
    Set-Valued Classifiers with Bounded Error Levels, 2019 (the sets).
    https://arxiv.org/abs/1609.00451
    """

    minimum: tuple[float, ...]
    tasks: int

    def __post_init__(self) -> None:
        descending = all(a >= b for a, b in zip(self.minimum, self.minimum[1:], strict=False))
        require(
            len(self.minimum) == len(COVERAGES)
            and all(0 <= p <= 1 for p in self.minimum)
            and descending,
            "minimum",
            self.minimum,
            f"must be {len(COVERAGES)} probabilities in descending order",
        )
        require(self.tasks >= 1, "tasks", self.tasks, "must be at least 1")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PredictionSets:
        """Build the sets that `to_json` described.

        Raises:
            ConfigError: A value is out of range.
            KeyError, TypeError, ValueError: A key is missing, or a value is not a number.
        """
        return cls(tuple(map(float, values["minimum"])), int(values["tasks"]))

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values."""
        return {"tasks": self.tasks, "minimum": list(self.minimum)}

    def find_minimum(self, coverage: float) -> float:
        """Return the minimum probability for a coverage, that of the next of `COVERAGES`.

        Raises:
            ConfigError: The coverage is out of range.
        """
        require(
            COVERAGES[0] <= coverage <= COVERAGES[-1],
            "coverage",
            coverage,
            f"must be between {COVERAGES[0]:g} and {COVERAGES[-1]:g}",
        )
        return self.minimum[max(0, math.ceil(100 * coverage - 1e-9) - 50)]

    def __call__(self, probabilities: Tensor, coverage: float) -> Tensor:
        """Compute which classes are in the set of each query.

        Args:
            probabilities: Calibrated probabilities `(..., ways)`.
            coverage: The promised probability, from 0.5 to 0.99.

        Returns:
            bool `(..., ways)`.

        Raises:
            ConfigError: The coverage is out of range.
        """
        return probabilities >= self.find_minimum(coverage)


def fit_prediction_sets(probabilities: Tensor, is_query: Tensor | None = None) -> PredictionSets:
    """Choose the minimum probabilities on calibration tasks.

    All tasks have the same weight, and a task of which nothing is known stands for the new one:

        minimum = max { p : sum_k 1 / ((K + 1) N_k) sum_i 1[p_ki >= p] >= coverage }

    with the probability p_ki of the true class of query i of calibration task k. It is 0 (all
    classes) where K tasks are too few for a promise.

    Args:
        probabilities: Probability of the true class of each query `(tasks, n)`.
        is_query: False where a query is padding `(tasks, n)`. None: there is none.

    Source: Yonghoon Lee, Rina Foygel Barber, Rebecca Willett: Distribution-free inference with
    hierarchical data, 2023, section 3.1 (hierarchical conformal prediction).
    https://arxiv.org/abs/2306.06342
    """
    p = probabilities.double().cpu()
    known = torch.ones_like(p, dtype=torch.bool) if is_query is None else is_query.cpu()
    weight = known.double() / (known.sum(1, keepdim=True).clamp_min(1) * (len(p) + 1))
    order = p[known].argsort(descending=True)
    descending, reached = p[known][order], weight[known][order].cumsum(0)
    # A tolerance far below the weight of a query, since sums of weights are rounded.
    positions = torch.searchsorted(reached, torch.tensor(COVERAGES, dtype=p.dtype) - 1e-12)
    found = torch.cat([descending, torch.zeros(1, dtype=p.dtype)])[positions]
    return PredictionSets(tuple(found.tolist()), len(p))
