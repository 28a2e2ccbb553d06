"""Confidence intervals of means and differences of checkpoints scored on the same episodes.

Scores have shape `(checkpoints, episodes)`. The checkpoints of a configuration differ only in their
training seed, and column i is the same episode for all checkpoints. Episodes and checkpoints are
crossed, so both are resampled. All intervals are conditional on the test classes, because all
episodes are drawn from them.

Source: Art Owen: The pigeonhole bootstrap, Annals of Applied Statistics 2007.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodic.core import random_numbers
from episodic.core.config import require

__all__ = ["MIN_EPISODES", "MIN_SEEDS", "Estimate", "Resamples", "holm"]

MIN_SEEDS = 3
"""Minimum number of training seeds per configuration for an estimate of the configuration. With
fewer, the estimate is only valid for these checkpoints."""

MIN_EPISODES = 50
"""Minimum number of episodes for a bootstrap percentile interval. With fewer it would be too
narrow, and Student's t interval is used."""

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
        of_methods: Whether seeds were also resampled. Otherwise it is only valid for these
            checkpoints.
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


class Resamples:
    """Bootstrap means over episodes.

    All checkpoints share the same resamples, which keeps them paired. Memory is proportional to
    `number * checkpoints`.

    Args:
        scores: Finite scores `(checkpoints, episodes)`, of at least 2 episodes.
        number: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ConfigError: The scores have another shape.
    """

    BLOCK = 500

    def __init__(self, scores: FloatArray, number: int = 10_000, seed: int = 0) -> None:
        scores = np.asarray(scores, np.float64)
        require(
            scores.ndim == 2 and scores.shape[1] >= 2,
            "episodes",
            scores.shape,
            "must be (checkpoints, episodes), at least 2 of them",
        )
        self.scores, self.number, self.seed = scores, number, seed
        self._means = np.concatenate([self._block(b) for b in range(0, number, self.BLOCK)])

    def _block(self, first: int) -> FloatArray:
        episodes, size = self.scores.shape[1], min(self.BLOCK, self.number - first)
        drawn = self._generator(f"episodes {first}").multinomial(
            episodes, np.full(episodes, 1 / episodes), size
        )
        means: FloatArray = drawn @ self.scores.T / episodes
        return means

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=random_numbers.key(self.seed, f"bootstrap {purpose}") % (1 << 64))
        )

    def mean(self, rows: Sequence[int]) -> Estimate:
        """Estimate the mean score of a configuration.

        Args:
            rows: Row indices of its checkpoints.
        """
        return self._estimate([rows])

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        """Estimate the difference of two configurations, the first minus the second.

        Args:
            first: Row indices of the checkpoints of one configuration.
            second: Row indices of the checkpoints of the other.
        """
        return self._estimate([first, second])

    def _estimate(self, rows: Sequence[Sequence[int]]) -> Estimate:
        """Estimate one configuration, or the first minus the second.

        With at least MIN_SEEDS seeds per configuration, the interval is mean +- t * s. Here s is
        the standard deviation of the bootstrap over seeds and episodes, corrected for the
        interaction, which the bootstrap counts three times instead of once. The quantile t has
        Satterthwaite's degrees of freedom (1946). Percentiles over so few seeds would be far too
        narrow.

        Otherwise the interval is the percentile interval of the bootstrap over episodes (with fewer
        than MIN_EPISODES, that of the t-test), and p is that of the paired t-test.
        """
        indices = [np.asarray(configuration, np.int64) for configuration in rows]
        configurations = [self.scores[index] for index in indices]
        seeds, episodes = (
            tuple(len(configuration) for configuration in configurations),
            self.scores.shape[1],
        )
        per_episode = _contrast([configuration.mean(0) for configuration in configurations])
        mean, over_episodes = float(per_episode.mean()), float(per_episode.var(ddof=1)) / episodes
        unpaired = sum(
            float(configuration.mean(0).var(ddof=1)) / episodes for configuration in configurations
        )
        if min(seeds) < MIN_SEEDS:
            se = math.sqrt(over_episodes)
            if episodes < MIN_EPISODES:
                half = float(_student().ppf((1 + LEVEL) / 2, episodes - 1)) * se
                low, high = mean - half, mean + half
            else:
                means = _contrast([self._means[:, index].mean(1) for index in indices])
                low, high = map(float, np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
            p, paired = _p_value(mean, se, episodes - 1), _width_ratio(over_episodes, unpaired)
            return Estimate(mean, low, high, p, se, False, seeds, episodes, paired)
        interactions = [
            _interaction(configuration) / (episodes * len(configuration))
            for configuration in configurations
        ]
        over_seeds = [
            max(float(configuration.mean(1).var(ddof=1)) / len(configuration) - interaction, 0.0)
            for configuration, interaction in zip(configurations, interactions, strict=True)
        ]
        means = _contrast(
            [self._resample_seeds(configuration, str(i)) for i, configuration in enumerate(indices)]
        )
        variance = float(means.var(ddof=1)) - 2 * sum(interactions)
        se = math.sqrt(max(variance, over_episodes))
        components = [
            (over_episodes, episodes - 1),
            *((variance, k - 1) for variance, k in zip(over_seeds, seeds, strict=True)),
        ]
        total = sum(variance for variance, _ in components)
        freedom = (
            total**2 / sum(variance**2 / df for variance, df in components)
            if total > 0
            else episodes - 1
        )
        half = float(_student().ppf((1 + LEVEL) / 2, freedom)) * se
        paired = _width_ratio(total, unpaired + sum(over_seeds))
        # Far in the tail, Satterthwaite's degrees of freedom favour seeds that agree by chance, so
        # they are bounded by those of the seeds.
        p = _p_value(mean, se, min(freedom, sum(seeds) - len(seeds)))
        return Estimate(mean, mean - half, mean + half, p, se, True, seeds, episodes, paired)

    def _resample_seeds(self, rows: NDArray[np.int64], configuration: str) -> FloatArray:
        """Compute bootstrap means of one configuration `(number,)`, also resampling its seeds.

        Deviations are scaled by `sqrt(k / (k - 1))` to correct the bias of a bootstrap of k seeds.
        """
        k, means = len(rows), self._means[:, rows]
        drawn = self._generator(f"seeds of side {configuration}").multinomial(
            k, np.full(k, 1 / k), self.number
        )
        center = means.mean(1)
        deviations: FloatArray = (drawn * means).sum(1) / k - center
        resampled: FloatArray = center + math.sqrt(k / (k - 1)) * deviations
        return resampled


def _contrast(configurations: Sequence[FloatArray]) -> FloatArray:
    """Return the only configuration, or the first minus the second."""
    return configurations[0] - configurations[1] if len(configurations) == 2 else configurations[0]


def _width_ratio(paired: float, unpaired: float) -> float:
    """Compute the ratio of two interval widths from their variances."""
    return math.sqrt(paired / unpaired) if unpaired > 0 else 1.0


def _interaction(scores: FloatArray) -> float:
    """Estimate the interaction variance of scores `(checkpoints, episodes)`."""
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    k, n = scores.shape
    return float(np.square(rest).sum() / ((k - 1) * (n - 1)))


def _p_value(mean: float, spread: float, freedom: float) -> float:
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * _student().sf(abs(mean) / spread, freedom))


def _student() -> Any:
    """Import Student's t distribution."""
    from scipy import stats  # an optional dependency of the library

    return stats.t


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
