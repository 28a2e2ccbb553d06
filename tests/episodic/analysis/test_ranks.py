"""Ranks of methods on several targets: shared ranks, intervals, their coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from episodic.analysis import ranks as ranks_module
from episodic.analysis.ranks import average_ranks, rank_interval, shared_ranks
from episodic.core.config import ConfigError
from episodic.core.statistics import student_quantile


def plain_ranks(scores: np.ndarray) -> list[float]:
    """The rule of the leaderboard as it is told in words, with paired t-intervals."""
    remaining = dict(enumerate(scores))
    ranks = [math.nan] * len(scores)
    next_rank = 1
    while remaining:
        best = max(remaining, key=lambda i: remaining[i].mean())
        tied = []
        for i, row in remaining.items():
            difference = remaining[best] - row
            width = difference.std(ddof=1) / math.sqrt(len(row)) * student_quantile(len(row) - 1)
            if i == best or abs(difference.mean()) <= width:
                tied.append(i)
        for i in tied:
            ranks[i] = sum(range(next_rank, next_rank + len(tied))) / len(tied)
            del remaining[i]
        next_rank += len(tied)
    return ranks


@pytest.mark.parametrize("seed", range(5))
def test_shared_ranks_are_those_of_the_rule_in_words(seed):
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(0, 0.2, 80)
    quality = generator.choice([0.0, 0.02, 0.05, 0.2], 6)
    targets = [quality[:, None] + difficulty + generator.normal(0, 0.1, (6, 80)) for _ in range(3)]
    expected = np.array([plain_ranks(scores) for scores in targets])
    ranks = average_ranks(targets)
    assert [rank.of_targets for rank in ranks] == [tuple(row) for row in expected.T.tolist()]
    np.testing.assert_allclose([rank.mean for rank in ranks], expected.mean(0))
    assert any(len({*row}) < 6 for row in expected)  # some are shared
    for rank in ranks:
        assert 1 <= rank.low <= rank.mean <= rank.high <= 6


def test_a_method_shares_the_rank_of_the_best_but_not_of_all_that_it_does_not_differ_from():
    # 0 and 1 do not differ, nor 1 and 2, but 0 and 2 do.
    differs = np.array([[False, False, True], [False, False, False], [True, False, False]])
    assert shared_ranks([0.9, 0.8, 0.7], differs) == [1.5, 1.5, 3.0]
    assert shared_ranks([0.7, 0.8, 0.9], differs) == [3.0, 1.5, 1.5]
    # The method in the middle differs from the best, and the last does not.
    differs = np.array([[False, True, False], [True, False, False], [False, False, False]])
    assert shared_ranks([0.9, 0.8, 0.7], differs) == [1.5, 3.0, 1.5]


def test_the_interval_leaves_open_what_the_differences_do():
    is_better = np.array([[False, False, True], [False, False, False], [False, False, False]])
    low, high = rank_interval(is_better)
    assert (low.tolist(), high.tolist()) == ([1, 1, 2], [2, 3, 3])


def test_clear_differences_give_whole_ranks_and_equal_scores_one():
    generator = np.random.default_rng(0)
    clear = np.arange(4)[:, None] + generator.normal(0, 0.1, (4, 30))
    assert [(rank.low, rank.mean, rank.high) for rank in average_ranks([clear, clear])] == [
        (4, 4, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1),
    ]  # fmt: skip
    equal = np.tile(generator.normal(0, 1, 30), (3, 1))
    assert {(rank.low, rank.mean, rank.high) for rank in average_ranks([equal])} == {(1, 2, 3)}


@pytest.mark.parametrize("corrected", [True, False])
def test_intervals_contain_all_true_ranks_at_least_as_often_as_they_say(corrected, monkeypatch):
    """At most 5 % of 200 families have a wrong interval; without Holm's correction it is more."""
    if not corrected:
        monkeypatch.setattr(ranks_module, "holm", list)
    quality = np.array([0.0, 0.0, 0.0, 0.04])
    true = np.array([[2, 4]] * 3 + [[1, 1]])  # equal methods have no order: any of 2 to 4
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        targets = [quality[:, None] + generator.normal(0, 0.1, (4, 100)) for _ in range(3)]
        ranks = average_ranks(targets)
        low, high = (np.array([getattr(rank, key) for rank in ranks]) for key in ("low", "high"))
        # Ranks of equal methods span 2 to 4: an interval is wrong if it excludes part of that.
        wrong += bool(((low > true[:, 0]) | (high < true[:, 1])).any())
    assert (wrong <= 18) == corrected  # 5 % of 200 and two and a half standard errors


def test_targets_with_other_methods_are_rejected():
    with pytest.raises(ConfigError, match=r"methods is \[2, 3\]; it must be one number"):
        average_ranks([np.zeros((2, 4)), np.zeros((3, 4))])
    with pytest.raises(ConfigError, match=r"methods is \[\]"):
        average_ranks([])


def test_the_order_of_methods_does_not_matter():
    generator = np.random.default_rng(2)
    scores = np.array([0.0, 0.03, 0.05])[:, None] + generator.normal(0, 0.1, (3, 60))
    ranks = dict(enumerate(average_ranks([scores])))
    for order in itertools.permutations(range(3)):
        changed = average_ranks([scores[list(order)]])
        assert [ranks[i] for i in order] == changed
