"""The statistics of comparisons, on simulated experiments whose differences are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from episodic.analysis.comparison import MIN_SEEDS, PairedScores, holm
from episodic.core.config import ConfigError
from episodic.core.statistics import mean_ci95

QUERIES, EPISODES = 10, 400
WORLDS = 1500
"""Simulated pairs of experiments: the share that an interval covers is known to 0.6 %."""


def simulate(
    rng: np.random.Generator, gap: float, seeds: int, worlds: int, spread: float = 0.25
) -> tuple[np.ndarray, np.ndarray, float]:
    """Simulated accuracies `(worlds, seeds, episodes)` of two methods, and their true difference.

    Episodes differ in difficulty and seeds in quality (by `spread`, in logits), and they interact.
    """

    def simulate_scores(ability: float, hard: np.ndarray) -> np.ndarray:
        came_out = rng.normal(0, spread, (len(hard), seeds, 1))
        logit = (
            ability
            + came_out
            - hard[:, None]
            + rng.normal(0, 0.3, (len(hard), seeds, hard.shape[1]))
        )
        return rng.binomial(QUERIES, 1 / (1 + np.exp(-logit))) / QUERIES

    def mean(ability: float) -> float:
        """By Gauss-Hermite quadrature over the sum of the three normal parts."""
        x, w = np.polynomial.hermite_e.hermegauss(80)
        return float(
            (w / (1 + np.exp(-ability - np.sqrt(1 + spread**2 + 0.3**2) * x))).sum() / w.sum()
        )

    hard = rng.normal(0, 1, (worlds, EPISODES))
    return simulate_scores(2 + gap, hard), simulate_scores(2, hard), mean(2 + gap) - mean(2)


def differences(first: np.ndarray, second: np.ndarray) -> list:
    """The difference in each world."""
    rows = np.arange(first.shape[1])
    return [
        PairedScores(np.concatenate(world)).difference(rows, rows + len(rows))
        for world in zip(first, second, strict=True)
    ]


@pytest.mark.parametrize("gap", [0.0, 0.8])
@pytest.mark.parametrize("seeds", [1, MIN_SEEDS, 6])
def test_intervals_cover_the_true_value(seeds, gap):
    """With one seed per method the seeds do not differ: the interval is of these checkpoints."""
    rng = np.random.default_rng(seeds)
    first, second, truth = simulate(rng, gap, seeds, WORLDS, spread=0.0 if seeds == 1 else 0.25)
    result = differences(first, second)
    assert all(d.of_methods == (seeds >= MIN_SEEDS) for d in result)
    covered = np.mean([d.low <= truth <= d.high for d in result])
    assert 0.935 <= covered <= (0.965 if seeds == 1 else 0.995), covered
    rejected = np.mean([d.p < 0.05 for d in result])
    if gap == 0:
        assert rejected == pytest.approx(1 - covered), "the interval is that of the p-value"
    else:
        assert rejected > {1: 0.9, MIN_SEEDS: 0.25, 6: 0.9}[seeds]


def test_checkpoints_taken_for_methods_would_be_wrong():
    """If seeds differ, intervals only over episodes miss the difference of the configurations."""
    first, second, truth = simulate(np.random.default_rng(0), 0.0, 1, WORLDS, spread=0.25)
    covered = np.mean([d.low <= truth <= d.high for d in differences(first, second)])
    assert covered < 0.85


def test_false_alarms_among_many_comparisons_with_one_baseline():
    rng, experiments, worlds = np.random.default_rng(1), 8, 600
    alarms = 0
    scores = [simulate(rng, 0.0, experiments, 1, spread=0.0)[0][0] for _ in range(worlds)]
    paired = PairedScores(np.concatenate(scores))
    for world in range(worlds):
        rows = range(world * experiments, (world + 1) * experiments)
        corrected = holm([paired.difference([row], [rows[0]]).p for row in rows[1:]])
        alarms += min(corrected) < 0.05
    assert alarms <= stats.binom.ppf(0.99, worlds, 0.05), (
        "the false-positive rate significantly exceeds 5 %"
    )


def test_false_alarms_among_all_pairs_of_methods_whose_seeds_differ():
    """The smallest of 15 p-values holds, though three seeds often agree by chance."""
    rng, methods, seeds, worlds = np.random.default_rng(5), 6, 3, 250
    scores = [simulate(rng, 0.0, methods * seeds, 1)[0][0] for _ in range(worlds)]
    paired = PairedScores(np.concatenate(scores))
    alarms = 0
    for world in range(worlds):
        configurations = [
            range(first, first + seeds)
            for first in range(world * methods * seeds, (world + 1) * methods * seeds, seeds)
        ]
        alarms += (
            min(holm([paired.difference(a, b).p for a, b in combinations(configurations, 2)]))
            < 0.05
        )
    assert alarms <= stats.binom.ppf(0.99, worlds, 0.05), alarms


def test_pairing_narrows_the_interval_where_episodes_correlate():
    first, second, _ = simulate(np.random.default_rng(2), 0.3, 1, 1, spread=0.0)
    paired = differences(first, second)[0]
    shuffled = differences(first, np.random.default_rng(3).permuted(second, axis=2))[0]
    width, apart = paired.high - paired.low, shuffled.high - shuffled.low
    assert paired.paired < 0.85 and shuffled.paired == pytest.approx(1, abs=0.1)
    assert width / apart == pytest.approx(paired.paired, abs=0.08)


def test_one_seed_per_configuration_is_the_paired_t_test():
    first, second, _ = simulate(np.random.default_rng(4), 0.2, 1, 1)
    result = differences(first, second)[0]
    expected = stats.ttest_rel(first[0, 0], second[0, 0])
    interval = expected.confidence_interval()
    np.testing.assert_allclose(
        [result.mean, result.low, result.high, result.p],
        [(first - second).mean(), interval.low, interval.high, expected.pvalue],
        rtol=1e-4,
    )


def test_equal_scores_have_no_difference_and_a_constant_one_is_certain():
    scores = np.random.default_rng(0).uniform(size=50)
    paired = PairedScores(np.stack([scores, scores, scores - 0.25]))
    same, apart = paired.difference([0], [1]), paired.difference([0], [2])
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    np.testing.assert_allclose([apart.mean, apart.low, apart.high], 0.25)
    assert apart.p < 1e-12


def test_results_do_not_depend_on_the_other_scores():
    scores = np.random.default_rng(0).uniform(size=(5, 60))
    few, many = PairedScores(scores[:2]), PairedScores(scores)
    a, b = few.difference([0], [1]), many.difference([0], [1])
    np.testing.assert_allclose([a.low, a.high], [b.low, b.high], rtol=1e-12)


def test_the_interval_of_a_mean():
    scores = np.random.default_rng(0).uniform(size=(3, 60))
    paired = PairedScores(scores)
    single = paired.mean([0])
    expected = stats.ttest_1samp(scores[0], 0).confidence_interval()
    np.testing.assert_allclose(
        [single.mean, single.low, single.high], [scores[0].mean(), *expected], rtol=1e-5
    )
    assert not single.of_methods and single.seeds == (1,)
    three = paired.mean([0, 1, 2])
    assert three.of_methods and three.low < scores.mean() < three.high


def test_the_interval_of_an_accuracy_is_that_of_an_evaluation():
    scores = np.random.default_rng(0).binomial(5, 0.99, (2, 60)) / 5
    scores[1] = 1.0
    for row in (0, 1):
        estimate = PairedScores(scores, share=True).mean([row])
        mean, half = mean_ci95(scores[row], share=True)
        assert half > 0
        assert (estimate.low, estimate.high) == pytest.approx((mean - half, 1.0), rel=1e-6)


def test_seeds_that_score_the_same_are_as_certain_as_many_seeds():
    """Without variance between seeds, only that of the episodes remains."""
    scores = np.random.default_rng(0).uniform(size=100)
    one, three = PairedScores(scores[None]), PairedScores(np.stack([scores] * 3))
    a, b = one.mean([0]), three.mean([0, 1, 2])
    assert (a.low, a.high) == pytest.approx((b.low, b.high)) and b.of_methods


def test_seeds_keep_their_degrees_of_freedom():
    """If the spread of three seeds dominates, the interval is that of a t-test on their means."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (3, 1)) + rng.normal(0, 1e-3, (3, 400))
    estimate = PairedScores(scores).mean([0, 1, 2])
    expected = stats.ttest_1samp(scores.mean(1), 0)
    np.testing.assert_allclose(
        [estimate.p, estimate.low, estimate.high],
        [expected.pvalue, *expected.confidence_interval()],
        rtol=1e-3,
    )


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_a_single_episode_cannot_be_compared():
    with pytest.raises(ConfigError, match="at least 2"):
        PairedScores(np.ones((2, 1)))


def test_the_standard_error_is_not_the_interval_by_the_normal_quantile():
    """With few seeds the interval is Student's, wider than the standard error suggests."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.5, 0.1, (3, 200)) + rng.normal(0, 0.05, (3, 1))
    of_seeds, of_one = PairedScores(scores).mean([0, 1, 2]), PairedScores(scores).mean([0])
    assert (of_seeds.high - of_seeds.low) / 2 > 3 * of_seeds.se > 0
    assert of_one.se == pytest.approx(float(scores[0].std(ddof=1)) / 200**0.5)
    assert (of_one.high - of_one.low) / 2 == pytest.approx(1.96 * of_one.se, rel=0.05)
