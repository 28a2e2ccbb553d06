"""Confidence intervals: of a mean, and the resamples of a bootstrap."""

from __future__ import annotations

import math

import numpy as np
import torch

from episodic.core import random_numbers

__all__ = [
    "NORMAL_QUANTILE",
    "RESAMPLES",
    "count_resamples",
    "draw_resamples",
    "mean_ci95",
    "share_half_width",
    "student_quantile",
]

RESAMPLES = 1000

NORMAL_QUANTILE = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def mean_ci95(values: np.ndarray, share: bool = False) -> tuple[float, float]:
    """Compute a mean and the half-width of its 95 % confidence interval.

    Args:
        values: One value per episode, `(n,)`.
        share: Whether the values are shares between 0 and 1, such as accuracies. Their interval is
            that of `share_half_width`.

    Returns:
        The mean and `t * s / sqrt(n)`, where `s` is the sample standard deviation and `t` the
        quantile of Student's distribution with `n - 1` degrees of freedom. The half-width of a
        single value is NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return mean, math.nan
    se, quantile = float(values.std(ddof=1)) / math.sqrt(n), student_quantile(n - 1)
    return mean, share_half_width(mean, se, quantile, n) if share else quantile * se


def share_half_width(mean: float, se: float, quantile: float, n: int) -> float:
    """Compute the half-width of the confidence interval of a mean share.

    Close to 0 and 1 the distribution of a mean is skewed, and `mean +- quantile * se` misses the
    true share too often. This is Wilson's interval of a binomial share that has the same standard
    error, made symmetric: the distance from the mean to its farther end.

    Args:
        mean: The mean share, between 0 and 1.
        se: Its standard error.
        quantile: Number of standard errors of the symmetric interval.
        n: Number of independent values. It counts only if all of them are 0 or all are 1, where the
            standard error is unknown.

    Source: Edwin Wilson: Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 1927. Edward Korn, Barry Graubard: Confidence
    intervals for proportions with small expected number of positive counts estimated from survey
    data, Survey Methodology 1998 (the effective sample size).
    """
    binomial = mean * (1 - mean)
    if binomial > 0 and se == 0:
        return 0.0
    effective = binomial / se**2 if binomial > 0 else n
    square = quantile**2
    center = (effective * mean + square / 2) / (effective + square)
    half = quantile * math.sqrt(binomial * effective + square / 4) / (effective + square)
    return half + abs(center - mean)


def student_quantile(freedom: int) -> float:
    """Compute the 97.5 % quantile of Student's t distribution, to within 0.2 %.

    Args:
        freedom: Degrees of freedom, at least 1.

    Source: Milton Abramowitz, Irene Stegun: Handbook of Mathematical Functions 1964, 26.7.5.
    """
    if freedom <= 2:
        return (12.706204736432095, 4.302652729911275)[freedom - 1]
    z = NORMAL_QUANTILE
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def draw_resamples(n: int, seed: int, purpose: str) -> np.ndarray:
    """Draw the observations of each resample of a bootstrap.

    Args:
        n: Number of observations.
        seed: Seed of the bootstrap.
        purpose: What is resampled. Equal seeds draw other resamples for another purpose.

    Returns:
        Indices below n, int64 `(RESAMPLES, n)`.
    """
    key = random_numbers.key(seed, purpose)
    bits = random_numbers.random_bits(key, torch.arange(RESAMPLES), n)
    drawn: np.ndarray = random_numbers.integers_below(bits, n).numpy()
    return drawn


def count_resamples(n: int, seed: int, purpose: str) -> np.ndarray:
    """Count how often each resample contains each observation.

    Arguments are those of `draw_resamples`.

    Returns:
        Float64 `(RESAMPLES, n)`.
    """
    drawn = draw_resamples(n, seed, purpose)
    return np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)
