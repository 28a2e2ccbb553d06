"""Rank correlation with a confidence interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from episodic.core.statistics import draw_resamples

__all__ = ["spearman"]

FloatArray = NDArray[np.float64]


def spearman(x: FloatArray, y: FloatArray, seed: int) -> tuple[float, float, float]:
    """Compute Spearman's rank correlation and its 95 % confidence interval.

    Ties have the mean of their ranks. The interval is a percentile interval of a bootstrap over
    pairs, because closed forms do not account for ties, which are frequent among accuracies on few
    queries.

    Args:
        x: Values `(n,)`.
        y: Values `(n,)`.
        seed: Seed of the bootstrap.

    Returns:
        The correlation and the lower and upper end of its interval. NaN if `x` or `y` is constant,
        or for fewer than 3 pairs.

    Source: C. Spearman: The proof and measurement of association between two things, 1904.
    """
    n = len(x)
    if n < 3:
        return math.nan, math.nan, math.nan
    resamples = draw_resamples(n, seed, "rank correlation")
    correlations = _correlate_rows(x[resamples], y[resamples])
    finite = correlations[np.isfinite(correlations)]
    correlation = float(_correlate_rows(x[None], y[None])[0])
    if not math.isfinite(correlation) or not len(finite):
        return math.nan, math.nan, math.nan
    low, high = np.quantile(finite, [0.025, 0.975])
    return correlation, float(low), float(high)


def _correlate_rows(x: FloatArray, y: FloatArray) -> FloatArray:
    """Compute the rank correlations of the rows of `(m, n)` -> `(m,)`."""
    from scipy import stats  # an optional dependency of the library

    a, b = (stats.rankdata(values, axis=1) for values in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        correlations: FloatArray = (a * b).sum(1) / np.sqrt(
            np.square(a).sum(1) * np.square(b).sum(1)
        )
    return correlations
