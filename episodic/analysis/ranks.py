"""Ranks of methods on several targets, such as the test episodes of several datasets.

A difference that may be due to chance gives no order. Methods then share a rank, and the interval
of a rank contains all ranks that the differences leave open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from episodic.analysis.comparison import PairedScores, holm
from episodic.core.config import require

__all__ = ["AverageRank", "average_ranks", "rank_interval", "shared_ranks"]

SIGNIFICANCE = 0.05

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class AverageRank:
    """The rank of a method among others, as the mean over targets. 1 is the best.

    Args:
        mean: Mean of its shared ranks.
        low: Lower end of the 95 % confidence interval of its mean rank.
        high: Upper end.
        of_targets: Its shared rank on each target.
    """

    mean: float
    low: float
    high: float
    of_targets: tuple[float, ...]


def average_ranks(targets: Sequence[NDArray[np.float64]]) -> list[AverageRank]:
    """Rank methods on each target and average the ranks over the targets.

    On a target, methods share a rank by `shared_ranks`, at a level of 5 % per difference. The
    intervals are those of `rank_interval`, with p-values that are corrected by Holm's method for
    all differences on all targets: with a probability of at least 95 %, all of them are right.
    Both are valid for the trained models, since each has been trained once.

    Args:
        targets: Scores `(methods, episodes)` on each target, the higher the better. The methods
            were scored on the same episodes.

    Returns:
        The ranks of each method.

    Raises:
        ConfigError: There are no targets, or they differ in methods.
    """
    counts = sorted({len(scores) for scores in targets})
    require(len(counts) == 1, "methods", counts, "must be one number, the same on each target")
    pairs = list(combinations(range(counts[0]), 2))
    differences = [
        [PairedScores(scores).difference([first], [second]) for first, second in pairs]
        for scores in targets
    ]
    corrected = iter(holm([estimate.p for of_target in differences for estimate in of_target]))
    ranks, intervals = [], []
    for scores, of_target in zip(targets, differences, strict=True):
        differs, is_better = (np.zeros((counts[0], counts[0]), bool) for _ in range(2))
        for (first, second), estimate in zip(pairs, of_target, strict=True):
            differs[first, second] = differs[second, first] = estimate.p < SIGNIFICANCE
            if next(corrected) < SIGNIFICANCE:
                better, worse = (first, second) if estimate.mean > 0 else (second, first)
                is_better[better, worse] = True
        ranks.append(shared_ranks(scores.mean(1).tolist(), differs))
        intervals.append(rank_interval(is_better))
    means, bounds = np.mean(ranks, 0), np.mean(intervals, 0)
    return [
        AverageRank(
            float(means[method]),
            float(bounds[0, method]),
            float(bounds[1, method]),
            tuple(of_target[method] for of_target in ranks),
        )
        for method in range(counts[0])
    ]


def shared_ranks(means: Sequence[float], differs: BoolArray) -> list[float]:
    """Rank methods on a target. Those that do not differ from the best share its rank.

    A shared rank is the mean of the ranks that the methods occupy together. The methods that remain
    are then ranked in the same way.

    Args:
        means: Mean score of each method, the higher the better.
        differs: Whether the scores of two methods differ significantly, `(methods, methods)`.

    Source: the leaderboard of Meta-Dataset, which compares intervals without pairing. Eleni
    Triantafillou et al.: Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
    Examples, ICLR 2020. https://arxiv.org/abs/1903.03096
    """
    ranks = [0.0] * len(means)
    remaining, first = sorted(range(len(means)), key=lambda method: -means[method]), 1
    while remaining:
        best = remaining[0]
        tied = [method for method in remaining if method == best or not differs[best, method]]
        for method in tied:
            ranks[method] = first + (len(tied) - 1) / 2
        first += len(tied)
        remaining = [method for method in remaining if method not in tied]
    return ranks


def rank_interval(is_better: BoolArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lowest and the highest rank `(methods,)` that differences leave open.

    Args:
        is_better: Whether the first method is significantly better than the second,
            `(methods, methods)`.

    Source: Magne Mogstad, Joseph Romano, Azeem Shaikh, Daniel Wilhelm: Inference for Ranks with
    Applications to Mobility across Neighbourhoods and Academic Achievement across Countries,
    Review of Economic Studies 2024. https://doi.org/10.1093/restud/rdad006
    """
    return 1 + is_better.sum(0), len(is_better) - is_better.sum(1)
