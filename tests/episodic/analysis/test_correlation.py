"""Rank correlation: known values, and the coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from episodic.analysis.correlation import spearman


def test_known_values():
    x = np.array([1.0, 2, 3, 4, 5])
    assert spearman(x, np.exp(x), 0) == (1.0, 1.0, 1.0)
    assert spearman(x, -x, 0)[0] == -1
    ties = np.array([0.8, 0.8, 1.0, 0.6, 1.0, 1.0])
    y = np.array([3.0, 1, 5, 2, 4, 4])
    assert math.isclose(spearman(ties, y, 0)[0], stats.spearmanr(ties, y).statistic)


def test_constant_values_have_no_correlation():
    assert all(math.isnan(value) for value in spearman(np.ones(9), np.arange(9.0), 0))
    assert all(math.isnan(value) for value in spearman(np.arange(2.0), np.arange(2.0), 0))


def test_the_same_seed_gives_the_same_interval():
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert spearman(x, y, 3) == spearman(x, y, 3) != spearman(x, y, 4)


def test_the_interval_holds_the_truth_in_about_95_of_100_samples():
    """Accuracies of five queries, full of ties, that fall as x rises.

    The true correlation is that of a very large sample.
    """
    rng = np.random.default_rng(1)

    def draw(n):
        x = rng.normal(size=n)
        return x, rng.binomial(5, 1 / (1 + np.exp(-1.5 + 0.8 * x))) / 5

    truth = stats.spearmanr(*draw(200_000)).statistic
    intervals = [spearman(*draw(120), seed)[1:] for seed in range(200)]
    held = np.mean([low <= truth <= high for low, high in intervals])
    assert -0.6 < truth < -0.3 and 0.90 <= held <= 0.99
    assert np.mean([low <= 0 <= high for low, high in intervals]) < 0.05, (
        "an interval that is too wide would contain 0"
    )
