"""Intervals over few seeds: of means, differences and families of comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import stats

from benchmarks.intervals.coverage import Coverage
from episodic.analysis.comparison import PairedScores, holm
from episodic.core.statistics import NORMAL_QUANTILE

EPISODES = 400
DIFFICULTY, OWN_DIFFICULTY, INTERACTION = 0.08, 0.03, 0.08
"""Standard deviations of the score of an episode: shared by all configurations, of a configuration
whatever its seed, and of a seed."""

COMPARISONS = (
    ("3 + 3 seeds", (3, 3), (0.01, 0.01)),
    ("3 + 3, spreads 2 and 0.2 points", (3, 3), (0.02, 0.002)),
    ("3 + 3, equal seeds", (3, 3), (0.0, 0.0)),
    ("3 + 10", (3, 10), (0.01, 0.01)),
    ("3 + 10, spreads 2 and 1 points", (3, 10), (0.02, 0.01)),
    ("5 + 5", (5, 5), (0.01, 0.01)),
    ("10 + 10", (10, 10), (0.01, 0.01)),
)
"""Name, seeds and spreads (standard deviations over seeds) of two configurations."""

MEANS = (("3 seeds", 3, 0.01), ("3, equal seeds", 3, 0.0), ("10", 10, 0.01))
"""Name, seeds and spread of one configuration."""

FAMILIES = (
    ("3 steady, 3 spread", 3, 0.002, 0.02),
    ("10 steady, 3 spread", 10, 0.002, 0.02),
    ("3, equal spreads", 3, 0.01, 0.01),
)
"""Name, seeds of the baseline, its spread and that of nine configurations with 3 seeds each."""


def simulate_scores(
    rng: np.random.Generator, seeds: Sequence[int], spreads: Sequence[float]
) -> list[np.ndarray]:
    """Simulate scores `(seeds, EPISODES)` of configurations whose true mean is 0."""
    shared = rng.normal(0, DIFFICULTY, EPISODES)
    return [
        shared
        + rng.normal(0, OWN_DIFFICULTY, EPISODES)
        + rng.normal(0, spread, (k, 1))
        + rng.normal(0, INTERACTION, (k, EPISODES))
        for k, spread in zip(seeds, spreads, strict=True)
    ]


def measure_seeds(
    seeds: Sequence[int], spreads: Sequence[float], worlds: int
) -> tuple[Coverage, Coverage, float]:
    """Measure the interval of a mean (one configuration) or of a difference (two).

    Returns:
        The coverage, that with pooled degrees of freedom, and the share of false alarms.
    """
    rng = np.random.default_rng(0)
    n, two = EPISODES, len(seeds) == 2
    known = (2 * OWN_DIFFICULTY**2 if two else DIFFICULTY**2 + OWN_DIFFICULTY**2) / n
    known += sum((s**2 + INTERACTION**2 / n) / k for s, k in zip(spreads, seeds, strict=True))
    covered, widths, pooled, pooled_widths, alarms = [], [], [], [], []
    for _ in range(worlds):
        scores = simulate_scores(rng, seeds, spreads)
        first, second = range(seeds[0]), range(seeds[0], sum(seeds))
        paired = PairedScores(np.concatenate(scores))
        estimate = paired.difference(first, second) if two else paired.mean(first)
        variance, freedom = pool_variances(scores)
        half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
        covered.append(estimate.low <= 0 <= estimate.high)
        widths.append((estimate.high - estimate.low) / 2)
        alarms.append(estimate.p < 0.05)
        pooled.append(abs(estimate.mean) <= half)
        pooled_widths.append(half)
    unit = NORMAL_QUANTILE * math.sqrt(known)
    return (
        Coverage(float(np.mean(covered)), float(np.mean(widths)) / unit),
        Coverage(float(np.mean(pooled)), float(np.mean(pooled_widths)) / unit),
        float(np.mean(alarms)),
    )


def pool_variances(scores: Sequence[np.ndarray]) -> tuple[float, float]:
    """Compute the variance of a mean or a difference and its pooled degrees of freedom.

    Source: F. E. Satterthwaite: An approximate distribution of estimates of variance components,
    Biometrics Bulletin 1946.
    """
    n = scores[0].shape[1]
    means = [of_seeds.mean(0) for of_seeds in scores]
    per_episode = means[0] - means[1] if len(means) == 2 else means[0]
    parts = [(float(per_episode.var(ddof=1)) / n, n - 1)]
    for of_seeds in scores:
        k = len(of_seeds)
        rest = of_seeds - of_seeds.mean(0) - of_seeds.mean(1, keepdims=True) + of_seeds.mean()
        interaction = float(np.square(rest).sum()) / ((k - 1) * (n - 1) * n)
        parts.append((max(float(of_seeds.mean(1).var(ddof=1)) - interaction, 0.0) / k, k - 1))
    total = sum(variance for variance, _ in parts)
    return total, total**2 / sum(variance**2 / df for variance, df in parts)


def measure_family(
    baseline_seeds: int, baseline_spread: float, spread: float, worlds: int
) -> tuple[float, float]:
    """Measure how often Holm's correction finds a difference among ten equal configurations.

    Returns:
        The share of false alarms, and that with pooled degrees of freedom.
    """
    rng = np.random.default_rng(1)
    alarms, pooled_alarms = 0, 0
    for _ in range(worlds):
        seeds, spreads = (baseline_seeds, *[3] * 9), (baseline_spread, *[spread] * 9)
        scores = simulate_scores(rng, seeds, spreads)
        paired = PairedScores(np.concatenate(scores))
        ends = np.cumsum((0, *seeds))
        rows = [range(*pair) for pair in pairwise(ends)]
        alarms += min(holm([paired.difference(row, rows[0]).p for row in rows[1:]])) < 0.05
        pooled = []
        for other in scores[1:]:
            variance, freedom = pool_variances([other, scores[0]])
            t = abs(other.mean() - scores[0].mean()) / math.sqrt(variance)
            pooled.append(2 * float(stats.t.sf(t, freedom)))
        pooled_alarms += min(holm(pooled)) < 0.05
    return alarms / worlds, pooled_alarms / worlds
