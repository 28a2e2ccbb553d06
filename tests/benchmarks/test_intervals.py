"""Intervals cover the true value as often as docs/results/intervals.md says.

The worlds are the same in each run, so that no test fails by chance.
"""

from __future__ import annotations

import re

import pytest
from support import ROOT

from benchmarks import intervals

WORLDS = 800


@pytest.mark.parametrize(("name", "seeds", "spreads"), intervals.COMPARISONS)
def test_few_seeds_are_not_too_sure(name, seeds, spreads):
    ours, pooled, alarms = intervals.measure_seeds(seeds, spreads, WORLDS)
    assert ours.covered >= 0.94 and alarms <= 0.06
    assert alarms == pytest.approx(1 - ours.covered), "the interval is that of the p-value"
    assert ours.width < {3: 2.2, 5: 1.5, 10: 1.2}[min(seeds)], "it costs no more than it says"
    if spreads[0] > spreads[1]:
        assert pooled.covered < 0.93, "the test notices intervals that are too narrow"


@pytest.mark.parametrize(("name", "seeds", "spread"), intervals.MEANS)
def test_the_ranking_draws_intervals_that_cover(name, seeds, spread):
    ours, pooled, _ = intervals.measure_seeds([seeds], [spread], WORLDS)
    assert ours.covered >= 0.94 and ours.width > pooled.width


@pytest.mark.parametrize(("name", "seeds", "baseline_spread", "spread"), intervals.FAMILIES)
def test_nine_comparisons_with_one_baseline_raise_few_false_alarms(
    name, seeds, baseline_spread, spread
):
    assert intervals.measure_family(seeds, baseline_spread, spread, 300) <= 0.06


@pytest.mark.parametrize("queries", intervals.QUERIES)
@pytest.mark.parametrize("episodes", intervals.NUMBERS)
@pytest.mark.parametrize("accuracy", intervals.ACCURACIES)
def test_single_runs_cover_close_to_1_and_with_few_episodes(accuracy, episodes, queries):
    covered, normal, ratio = intervals.measure_accuracies(accuracy, episodes, queries, 2000)
    assert covered >= 0.93 and normal < covered + 0.005
    if episodes >= 100 and accuracy <= 0.95:
        assert ratio < 1.3, "it costs no more than it says"
    if episodes <= 40 and accuracy >= 0.98:
        assert normal < 0.93, "the test notices intervals that are too narrow"


@pytest.mark.parametrize("scatter", intervals.SCATTERS)
@pytest.mark.parametrize("points", intervals.POINTS)
def test_power_laws_cover_whether_or_not_the_scatter_is_known(points, scatter):
    ours, normal = intervals.measure_power_law(points, scatter, WORLDS)
    assert ours.covered >= 0.93
    if scatter > 1:
        assert normal.covered < 0.93, "the test notices intervals that are too narrow"


def test_the_page_has_every_setting():
    text = (ROOT / "docs/results/intervals.md").read_text()
    rows = re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)
    settings = [
        name
        for table in (intervals.COMPARISONS, intervals.MEANS, intervals.FAMILIES)
        for name, *_ in table
    ]
    assert not set(settings) - set(rows)
