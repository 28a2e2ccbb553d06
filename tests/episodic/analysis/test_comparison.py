"""The statistics of comparisons, on simulated experiments whose differences are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from episodic.analysis.comparison import MIN_SEEDS, Resamples, holm
from episodic.core.config import ConfigError

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
    """The difference in each world. All worlds share one bootstrap, which is much faster."""
    worlds, k, n = first.shape
    resamples = Resamples(
        np.concatenate([first.reshape(-1, n), second.reshape(-1, n)]), number=2000
    )
    rows = np.arange(worlds * k).reshape(worlds, k)
    return [resamples.difference(mine, mine + worlds * k) for mine in rows]


@pytest.mark.parametrize("gap", [0.0, 0.4])
@pytest.mark.parametrize("seeds", [1, MIN_SEEDS, 6])
def test_intervals_cover_the_true_value(seeds, gap):
    """With one seed per method the seeds do not differ: the interval is of these checkpoints."""
    rng = np.random.default_rng(seeds)
    first, second, truth = simulate(rng, gap, seeds, WORLDS, spread=0.0 if seeds == 1 else 0.25)
    result = differences(first, second)
    assert all(d.of_methods == (seeds >= MIN_SEEDS) for d in result)
    covered = np.mean([d.low <= truth <= d.high for d in result])
    assert 0.93 <= covered <= 0.97, covered
    rejected = np.mean([d.p < 0.05 for d in result])
    assert (0.02 <= rejected <= 0.065) if gap == 0 else rejected > (0.9 if seeds == 1 else 0.2)


def test_checkpoints_taken_for_methods_would_be_wrong():
    """If seeds differ, intervals only over episodes miss the difference of the configurations."""
    first, second, truth = simulate(np.random.default_rng(0), 0.0, 1, WORLDS, spread=0.25)
    covered = np.mean([d.low <= truth <= d.high for d in differences(first, second)])
    assert covered < 0.85


def test_false_alarms_among_many_comparisons_with_one_baseline():
    rng, experiments, worlds = np.random.default_rng(1), 8, 600
    alarms = 0
    scores = [simulate(rng, 0.0, experiments, 1, spread=0.0)[0][0] for _ in range(worlds)]
    resamples = Resamples(np.concatenate(scores), number=500)
    for world in range(worlds):
        rows = range(world * experiments, (world + 1) * experiments)
        corrected = holm([resamples.difference([row], [rows[0]]).p for row in rows[1:]])
        alarms += min(corrected) < 0.05
    assert alarms <= stats.binom.ppf(0.99, worlds, 0.05), (
        "the false-positive rate significantly exceeds 5 %"
    )


def test_false_alarms_among_all_pairs_of_methods_whose_seeds_differ():
    """The smallest of 15 p-values holds, though three seeds often agree by chance."""
    rng, methods, seeds, worlds = np.random.default_rng(5), 6, 3, 250
    scores = [simulate(rng, 0.0, methods * seeds, 1)[0][0] for _ in range(worlds)]
    resamples = Resamples(np.concatenate(scores), number=500)
    alarms = 0
    for world in range(worlds):
        configurations = [
            range(first, first + seeds)
            for first in range(world * methods * seeds, (world + 1) * methods * seeds, seeds)
        ]
        alarms += (
            min(holm([resamples.difference(a, b).p for a, b in combinations(configurations, 2)]))
            < 0.05
        )
    assert alarms <= stats.binom.ppf(0.99, worlds, 0.05), alarms


def test_few_episodes_have_students_interval():
    scores = np.random.default_rng(0).normal(size=(2, 8))
    result, expected = Resamples(scores, number=100).difference([0], [1]), stats.ttest_rel(*scores)
    interval = expected.confidence_interval()
    np.testing.assert_allclose(
        [result.low, result.high, result.p], [interval.low, interval.high, expected.pvalue]
    )


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
    assert result.p == pytest.approx(expected.pvalue) and result.mean == pytest.approx(
        (first - second).mean()
    )
    interval = expected.confidence_interval()
    np.testing.assert_allclose(
        [result.low, result.high],
        [interval.low, interval.high],
        atol=0.1 * (interval.high - interval.low),
    )


def test_equal_scores_have_no_difference_and_a_constant_one_is_certain():
    scores = np.random.default_rng(0).uniform(size=50)
    resamples = Resamples(np.stack([scores, scores, scores - 0.25]), number=100)
    same, apart = resamples.difference([0], [1]), resamples.difference([0], [2])
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    np.testing.assert_allclose([apart.mean, apart.low, apart.high], 0.25)
    assert apart.p < 1e-12


def test_results_do_not_depend_on_the_other_scores():
    scores = np.random.default_rng(0).uniform(size=(5, 60))
    few, many = Resamples(scores[:2], number=1200), Resamples(scores, number=1200)
    a, b = few.difference([0], [1]), many.difference([0], [1])
    np.testing.assert_allclose([a.low, a.high], [b.low, b.high], rtol=1e-12)


def test_the_interval_of_a_mean():
    scores = np.random.default_rng(0).uniform(size=(3, 60))
    resamples = Resamples(scores)
    single = resamples.mean([0])
    half = 1.96 * scores[0].std(ddof=1) / np.sqrt(60)
    assert single.low < single.mean == scores[
        0
    ].mean() < single.high and single.high - single.low == pytest.approx(2 * half, rel=0.1)
    assert not single.of_methods and single.seeds == (1,)
    three = resamples.mean([0, 1, 2])
    assert three.of_methods and three.low < scores.mean() < three.high


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_a_single_episode_cannot_be_compared():
    with pytest.raises(ConfigError, match="at least 2"):
        Resamples(np.ones((2, 1)))


def test_the_standard_error_is_not_the_interval_by_the_normal_quantile():
    """With few seeds the interval is Student's, wider than the standard error suggests."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.5, 0.1, (3, 200)) + rng.normal(0, 0.05, (3, 1))
    of_seeds, of_one = Resamples(scores).mean([0, 1, 2]), Resamples(scores).mean([0])
    assert (of_seeds.high - of_seeds.low) / 2 > 3 * of_seeds.se > 0
    assert of_one.se == pytest.approx(float(scores[0].std(ddof=1)) / 200**0.5)
    assert (of_one.high - of_one.low) / 2 == pytest.approx(1.96 * of_one.se, rel=0.05)
