"""Confidence intervals of means and differences of checkpoints scored on the same episodes.

Scores have shape `(checkpoints, episodes)`. The checkpoints of a configuration differ only in their
training seed, and column i is the same episode for all checkpoints. Episodes and checkpoints are
crossed, so both contribute to the variance. All intervals are conditional on the test classes,
because all episodes are drawn from them.

docs/results/intervals.md says how often the intervals cover the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from episodic.analysis.student_sum import StudentSum
from episodic.core.config import require
from episodic.core.statistics import share_half_width, student_quantile

__all__ = ["MIN_SEEDS", "Estimate", "PairedScores", "holm"]

MIN_SEEDS = 3
"""Minimum number of training seeds per configuration for an estimate of the configuration. With
fewer, the estimate is only valid for these checkpoints."""

LEVEL = 0.95

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The mean score of a configuration, or the difference of two, the first minus the second.

    Args:
        mean: The mean or the difference.
        low: Lower end of its 95 % confidence interval.
        high: Upper end of its 95 % confidence interval.
        p: Two-sided p-value of the null hypothesis that it is 0.
        se: Its standard error.
        of_methods: Whether the interval also covers other seeds. Otherwise it is only valid for
            these checkpoints.
        seeds: Number of checkpoints of each configuration.
        episodes: Number of episodes.
        paired: Width of the interval relative to that for independent (unpaired) scores. 1 for a
            mean.
    """

    mean: float
    low: float
    high: float
    p: float
    se: float
    of_methods: bool
    seeds: tuple[int, ...]
    episodes: int
    paired: float = 1.0


class PairedScores:
    """Scores of checkpoints on the same episodes.

    Args:
        scores: Finite scores `(checkpoints, episodes)`, of at least 2 episodes.
        share: Whether scores are shares between 0 and 1, such as accuracies. Intervals of their
            means stay between 0 and 1 (`share_half_width`).

    Raises:
        ConfigError: The scores have another shape.
    """

    def __init__(self, scores: FloatArray, share: bool = False) -> None:
        scores = np.asarray(scores, np.float64)
        require(
            scores.ndim == 2 and scores.shape[1] >= 2,
            "episodes",
            scores.shape,
            "must be (checkpoints, episodes), at least 2 of them",
        )
        self.scores, self.share = scores, share

    def mean(self, rows: Sequence[int]) -> Estimate:
        """Estimate the mean score of a configuration.

        Args:
            rows: Row indices of its checkpoints, one per training seed.
        """
        estimate = self._estimate([rows])
        if not self.share:
            return estimate
        mean, se, n = estimate.mean, estimate.se, estimate.episodes
        quantile = (estimate.high - mean) / se if se > 0 else student_quantile(n - 1)
        half = share_half_width(mean, se, quantile, n)
        return replace(estimate, low=max(mean - half, 0.0), high=min(mean + half, 1.0))

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        """Estimate the difference of two configurations, the first minus the second.

        Args:
            first: Row indices of the checkpoints of one configuration, one per training seed.
            second: Row indices of the checkpoints of the other.
        """
        return self._estimate([first, second])

    def _estimate(self, rows: Sequence[Sequence[int]]) -> Estimate:
        """Estimate one configuration, or the first minus the second.

        The variance of the estimate is that of the episodes, plus that of the seeds of each
        configuration if all have at least MIN_SEEDS. The interval and p are those of `StudentSum`.
        The interaction of seeds and episodes is part of the variance of both. It is subtracted
        from that of the episodes, whose degrees of freedom are many.
        """
        configurations = [self.scores[np.asarray(indices, np.int64)] for indices in rows]
        seeds = tuple(len(configuration) for configuration in configurations)
        n = self.scores.shape[1]
        per_episode = _contrast([configuration.mean(0) for configuration in configurations])
        mean, over_episodes = float(per_episode.mean()), float(per_episode.var(ddof=1)) / n
        unpaired = sum(float(c.mean(0).var(ddof=1)) / n for c in configurations)
        of_methods = min(seeds) >= MIN_SEEDS
        variances = [(over_episodes, n - 1)]
        if of_methods:
            shared = sum(_interaction(c) / (n * len(c)) for c in configurations)
            over_seeds = [float(c.mean(1).var(ddof=1)) / len(c) for c in configurations]
            variances = [
                (max(over_episodes - shared, 0.0), n - 1),
                *((variance, k - 1) for variance, k in zip(over_seeds, seeds, strict=True)),
            ]
            unpaired = max(unpaired - shared, 0.0) + sum(over_seeds)
        total = sum(variance for variance, _ in variances)
        half, p = 0.0, float(mean == 0)
        if total > 0:
            distribution = StudentSum(variances)
            half, p = distribution.half_width(LEVEL), distribution.p_value(mean)
        return Estimate(
            mean=mean,
            low=mean - half,
            high=mean + half,
            p=p,
            se=math.sqrt(total),
            of_methods=of_methods,
            seeds=seeds,
            episodes=n,
            paired=math.sqrt(total / unpaired) if unpaired > 0 else 1.0,
        )


def _contrast(configurations: Sequence[FloatArray]) -> FloatArray:
    """Return the only configuration, or the first minus the second."""
    return configurations[0] - configurations[1] if len(configurations) == 2 else configurations[0]


def _interaction(scores: FloatArray) -> float:
    """Estimate the interaction variance of scores `(checkpoints, episodes)`."""
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    k, n = scores.shape
    return float(np.square(rest).sum() / ((k - 1) * (n - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons.

    At a level of 5 %, the probability of rejecting any true null hypothesis is at most 5 %.

    Args:
        p: The p-values.

    Returns:
        The corrected p-values, in the same order.

    Source: Sture Holm: A simple sequentially rejective multiple test procedure, 1979.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty_like(values)
    result[order] = np.minimum(steps, 1.0)
    return [float(value) for value in result]
