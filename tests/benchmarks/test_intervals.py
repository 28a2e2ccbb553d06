"""Intervals cover the true value as often as docs/results/intervals.md says.

The worlds are the same in each run, so that no test fails by chance.
"""

from __future__ import annotations

import re

import pytest
from support import ROOT

from benchmarks.intervals import accuracies, few_seeds, power_laws

WORLDS = 800


@pytest.mark.parametrize(("name", "seeds", "spreads"), few_seeds.COMPARISONS)
def test_few_seeds_are_not_too_sure(name, seeds, spreads):
    ours, pooled, alarms = few_seeds.measure_seeds(seeds, spreads, WORLDS)
    assert ours.covered >= 0.94 and alarms <= 0.06
    assert alarms == pytest.approx(1 - ours.covered), "the interval is that of the p-value"
    assert ours.width < {3: 2.2, 5: 1.5, 10: 1.2}[min(seeds)], "it costs no more than it says"
    if spreads[0] > spreads[1]:
        assert pooled.covered < 0.93, "the test notices intervals that are too narrow"


@pytest.mark.parametrize(("name", "seeds", "spread"), few_seeds.MEANS)
def test_the_ranking_draws_intervals_that_cover(name, seeds, spread):
    ours, pooled, _ = few_seeds.measure_seeds([seeds], [spread], WORLDS)
    assert ours.covered >= 0.94 and ours.width > pooled.width


@pytest.mark.parametrize(("name", "seeds", "baseline_spread", "spread"), few_seeds.FAMILIES)
def test_nine_comparisons_with_one_baseline_raise_few_false_alarms(
    name, seeds, baseline_spread, spread
):
    ours, pooled = few_seeds.measure_family(seeds, baseline_spread, spread, 300)
    assert ours <= 0.06
    assert pooled > 0.06, "the test notices p-values that are too small"


@pytest.mark.parametrize("spread", accuracies.ERROR_SPREADS)
@pytest.mark.parametrize("accuracy", accuracies.SEED_ACCURACIES)
def test_the_ranking_draws_intervals_that_cover_close_to_1(accuracy, spread):
    covered, plain = accuracies.measure_seed_accuracies(accuracy, spread, WORLDS)
    assert covered >= 0.94 and covered > plain


@pytest.mark.parametrize("queries", accuracies.QUERIES)
@pytest.mark.parametrize("episodes", accuracies.NUMBERS)
@pytest.mark.parametrize("accuracy", accuracies.ACCURACIES)
def test_single_runs_cover_close_to_1_and_with_few_episodes(accuracy, episodes, queries):
    covered, normal, ratio = accuracies.measure_accuracies(accuracy, episodes, queries, 2000)
    assert covered >= 0.93 and normal < covered + 0.005
    if episodes >= 100 and accuracy <= 0.95:
        assert ratio < 1.3, "it costs no more than it says"
    if episodes <= 40 and accuracy >= 0.98:
        assert normal < 0.93, "the test notices intervals that are too narrow"


@pytest.mark.parametrize("scatter", power_laws.SCATTERS)
@pytest.mark.parametrize("points", power_laws.POINTS)
def test_power_laws_cover_whether_or_not_the_scatter_is_known(points, scatter):
    ours, normal = power_laws.measure_power_law(points, scatter, WORLDS)
    assert ours.covered >= 0.93
    if scatter > 1:
        assert normal.covered < 0.93, "the test notices intervals that are too narrow"


def test_the_page_has_every_setting():
    text = (ROOT / "docs/results/intervals.md").read_text()
    rows = re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)
    settings = [
        name
        for table in (few_seeds.COMPARISONS, few_seeds.MEANS, few_seeds.FAMILIES)
        for name, *_ in table
    ]
    assert not set(settings) - set(rows)
