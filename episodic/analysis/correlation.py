"""Whether one thing goes with another, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import torch

from episodic.core import random_numbers

RESAMPLES = 1000


def spearman(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Rank correlation of `(n,)` and `(n,)`, and its 95 % interval; NaN where one of them does not vary.

    Ties have the mean of their ranks (C. Spearman: The proof and measurement of association between two things, 1904). The interval is the
    percentile interval of a bootstrap over the pairs: accuracies of few queries are full of ties, which closed forms do not allow for.
    """
    n = len(x)
    if n < 3:
        return math.nan, math.nan, math.nan
    drawn = random_numbers.below(
        random_numbers.draws(
            random_numbers.key(seed, "rank correlation"), torch.arange(RESAMPLES), n
        ),
        n,
    ).numpy()
    found = _ranked(x[drawn], y[drawn])
    known = found[np.isfinite(found)]
    mean = float(_ranked(x[None], y[None])[0])
    if not math.isfinite(mean) or not len(known):
        return math.nan, math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return mean, float(low), float(high)


def _ranked(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each line of `(m, n)`."""
    from scipy import stats  # imported where it is needed: most of the library does without

    a, b = (stats.rankdata(values, axis=1) for values in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
