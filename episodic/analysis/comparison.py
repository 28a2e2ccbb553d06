"""How sure a difference is: two sets of checkpoints scored on the same episodes.

Scores come as `(checkpoints, episodes)`: the checkpoints of one configuration differ in their training seed alone, and column i is the
same episode everywhere. Episodes are crossed with checkpoints, so that both are resampled (Art Owen: The pigeonhole bootstrap, Annals of
Applied Statistics 2007). All intervals are conditional on the test classes: the episodes are drawn from the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from episodic.core import random_numbers
from episodic.core.config import require

LEAST_SEEDS = 3
"""Training seeds on each side from which on a difference is one of methods; with fewer it is one of checkpoints."""

LEAST_EPISODES = 50
"""Below it a percentile of the bootstrap is too narrow, and the interval is Student's."""

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, or the mean difference of two sides, first minus second.

    low, high: its 95 % interval; p: two-sided, of its being 0
    se: its standard error; of_methods: whether seeds were resampled too (else it holds for these checkpoints alone)
    seeds: checkpoints on each side; episodes: how many
    paired: width of a difference's interval as a fraction of that of the same scores taken as independent (of a mean: 1)
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
    """Bootstrap means over episodes, of all checkpoints by the same draws, so that they stay paired.

    Memory is that of `number * checkpoints` float64 and a block of draws.
    """

    BLOCK = 500

    def __init__(self, scores: np.ndarray, number: int = 10_000, seed: int = 0):
        """scores `(checkpoints, episodes)`, finite; number: of bootstrap draws."""
        scores = np.asarray(scores, np.float64)
        require(
            scores.ndim == 2 and scores.shape[1] >= 2,
            "episodes",
            scores.shape,
            "must be (checkpoints, episodes), at least 2 of them",
        )
        self.scores, self.number, self.seed = scores, number, seed
        self._means = np.concatenate([self._block(b) for b in range(0, number, self.BLOCK)])

    def _block(self, first: int) -> np.ndarray:
        episodes, size = self.scores.shape[1], min(self.BLOCK, self.number - first)
        drawn = self._generator(f"episodes {first}").multinomial(
            episodes, np.full(episodes, 1 / episodes), size
        )
        return drawn @ self.scores.T / episodes

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=random_numbers.key(self.seed, f"bootstrap {purpose}") % (1 << 64))
        )

    def mean(self, rows: Sequence[int]) -> Estimate:
        """Of the checkpoints of one configuration."""
        return self._estimate([rows])

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        """Rows `first` minus rows `second`, each the checkpoints of one configuration."""
        return self._estimate([first, second])

    def _estimate(self, rows: Sequence[Sequence[int]]) -> Estimate:
        """One side, or the first minus the second.

        With at least LEAST_SEEDS on all sides the interval is mean +- t * s: s the spread of the bootstrap over seeds and episodes, less
        what that counts too much (the interaction of both, three times in place of once), t with the degrees of freedom of Satterthwaite
        (1946). Percentiles of so few seeds would be far too narrow. Else it is the bootstrap's percentile interval over episodes (below
        LEAST_EPISODES that of the t-test), and p that of the paired t-test. With seeds p has the freedom of the seeds at most.
        """
        places, signs = [np.asarray(r, np.int64) for r in rows], (1, -1)
        sides = [self.scores[place] for place in places]
        each = sum(sign * side.mean(0) for sign, side in zip(signs, sides, strict=False))
        mean, episodes, seeds = (
            float(np.mean(each)),
            self.scores.shape[1],
            tuple(len(side) for side in sides),
        )
        over_episodes = float(np.var(each, ddof=1)) / episodes
        apart = sum(float(side.mean(0).var(ddof=1)) / episodes for side in sides)
        of_methods, se = min(seeds) >= LEAST_SEEDS, math.sqrt(over_episodes)
        if not of_methods and episodes < LEAST_EPISODES:
            half = float(_student().ppf((1 + LEVEL) / 2, episodes - 1)) * se
            return Estimate(
                mean,
                mean - half,
                mean + half,
                _p(mean, se, episodes - 1),
                se,
                False,
                seeds,
                episodes,
                _ratio(over_episodes, apart),
            )
        if not of_methods:
            drawn = sum(
                sign * self._means[:, place].mean(1)
                for sign, place in zip(signs, places, strict=False)
            )
            low, high = (float(q) for q in np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
            p = _p(mean, se, episodes - 1)
            return Estimate(
                mean, low, high, p, se, False, seeds, episodes, _ratio(over_episodes, apart)
            )
        both = [_interaction(side) / (episodes * len(side)) for side in sides]
        over_seeds = [
            max(float(side.mean(1).var(ddof=1)) / len(side) - twice, 0.0)
            for side, twice in zip(sides, both, strict=True)
        ]
        drawn = sum(
            sign * self._of_seeds(place, str(i))
            for i, (sign, place) in enumerate(zip(signs, places, strict=False))
        )
        spread = math.sqrt(max(float(np.var(drawn, ddof=1)) - 2 * sum(both), over_episodes))
        parts = [
            (over_episodes, episodes - 1),
            *((variance, k - 1) for variance, k in zip(over_seeds, seeds, strict=True)),
        ]
        total = sum(variance for variance, _ in parts)
        freedom = (
            total**2 / sum(variance**2 / df for variance, df in parts)
            if total > 0
            else episodes - 1
        )
        half = float(_student().ppf((1 + LEVEL) / 2, freedom)) * spread
        paired = _ratio(total, apart + sum(over_seeds))
        # Far in the tail, where corrected p-values lie, Satterthwaite's freedom is too kind to seeds that agree by luck.
        p = _p(mean, spread, min(freedom, sum(seeds) - len(seeds)))
        return Estimate(mean, mean - half, mean + half, p, spread, True, seeds, episodes, paired)

    def _of_seeds(self, rows: np.ndarray, side: str) -> np.ndarray:
        """The bootstrap means of a side `(number,)`, its seeds resampled as well, their deviations widened by what a bootstrap of k seeds
        lacks, sqrt(k / (k - 1))."""
        k, means = len(rows), self._means[:, rows]
        drawn = self._generator(f"seeds of side {side}").multinomial(
            k, np.full(k, 1 / k), self.number
        )
        middle = means.mean(1)
        return middle + math.sqrt(k / (k - 1)) * ((drawn * means).sum(1) / k - middle)


def _ratio(paired: float, apart: float) -> float:
    """Of two widths, from their variances."""
    return math.sqrt(paired / apart) if apart > 0 else 1.0


def _interaction(scores: np.ndarray) -> float:
    """The variance of what neither checkpoint nor episode alone explains in `(checkpoints, episodes)` (analysis of variance)."""
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    k, n = scores.shape
    return float(np.square(rest).sum()) / ((k - 1) * (n - 1))


def _p(mean: float, spread: float, freedom: float) -> float:
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * _student().sf(abs(mean) / spread, freedom))


def _student() -> Any:
    """Student's t; scipy is imported where it is needed, since the rest of the library does without."""
    from scipy import stats

    return stats.t


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that among true null hypotheses one is rejected at 5 % in at most 5 % of all cases
    (Sture Holm: A simple sequentially rejective multiple test procedure, 1979)."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty_like(values)
    result[order] = np.minimum(steps, 1.0)
    return result.tolist()
