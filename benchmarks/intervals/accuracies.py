"""Intervals of accuracies, also near 100 %: of a single run, and of the mean of three seeds."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize

from episodic.analysis.comparison import PairedScores
from episodic.core.statistics import NORMAL_QUANTILE, mean_ci95

ACCURACIES, NUMBERS, QUERIES = (0.5, 0.8, 0.95, 0.98, 0.995, 0.999), (10, 20, 40, 100, 600), (5, 75)
LOGIT_SPREAD = 1.0
"""Standard deviation over episodes of the logit of the accuracy of a single run."""

SEED_ACCURACIES, ERROR_SPREADS = (0.95, 0.98, 0.995, 0.999), (0.1, 0.3, 0.6)
"""Accuracies of a configuration, and the spread of its error over seeds, relative to the error."""

SEED_EPISODES = 400


def simulate_accuracies(
    rng: np.random.Generator, accuracy: float, episodes: int, queries: int, worlds: int
) -> np.ndarray:
    """Simulate accuracies `(worlds, episodes)` whose mean over all episodes is `accuracy`."""
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def excess(logit: float) -> float:
        return float((weights / (1 + np.exp(-logit - LOGIT_SPREAD * x))).sum()) - accuracy

    logit = optimize.brentq(excess, -5, 30)
    ability = logit + LOGIT_SPREAD * rng.normal(size=(worlds, episodes))
    simulated: np.ndarray = rng.binomial(queries, 1 / (1 + np.exp(-ability))) / queries
    return simulated


def measure_accuracies(
    accuracy: float, episodes: int, queries: int, worlds: int
) -> tuple[float, float, float]:
    """Measure the interval of the accuracy of a single run.

    Returns:
        The coverage, that of mean +- 1.96 standard errors, and the ratio of their widths.
    """
    rng = np.random.default_rng(2)
    scores = simulate_accuracies(rng, accuracy, episodes, queries, worlds)
    means = scores.mean(1)
    halves = np.array([mean_ci95(row, share=True)[1] for row in scores])
    normal = NORMAL_QUANTILE * scores.std(1, ddof=1) / math.sqrt(episodes)
    distance = np.abs(means - accuracy) - 1e-12
    return (
        float((distance <= halves).mean()),
        float((distance <= normal).mean()),
        float(halves.sum() / normal.sum()),
    )


def measure_seed_accuracies(accuracy: float, spread: float, worlds: int) -> tuple[float, float]:
    """Measure the interval of the mean accuracy of 3 seeds, as the chart of a comparison draws it.

    Args:
        accuracy: The true accuracy, of which 5 queries per episode are simulated.
        spread: Standard deviation of the error over seeds, relative to the mean error.
        worlds: Number of simulated results.

    Returns:
        The coverage, and that of the interval for scores that are not shares.
    """
    rng = np.random.default_rng(4)
    covered = np.zeros((worlds, 2))
    for world in covered:
        error = (1 - accuracy) * rng.gamma(spread**-2, spread**2, (3, 1))
        probability = np.minimum(error * rng.uniform(0, 2, SEED_EPISODES), 1)
        scores = 1 - rng.binomial(5, probability) / 5
        for i, share in enumerate((True, False)):
            estimate = PairedScores(scores, share).mean(range(3))
            world[i] = estimate.low - 1e-12 <= accuracy <= estimate.high + 1e-12
    return float(covered[:, 0].mean()), float(covered[:, 1].mean())
