"""Confidence intervals: of a mean, and the resamples of a bootstrap."""

from __future__ import annotations

import math

import numpy as np
import torch

from episodic.core import random_numbers

__all__ = ["RESAMPLES", "count_resamples", "draw_resamples", "mean_ci95"]

RESAMPLES = 1000


def mean_ci95(values: np.ndarray) -> tuple[float, float]:
    """Compute a mean and the half-width of its 95 % confidence interval.

    Args:
        values: One value per episode, `(n,)`.

    Returns:
        The mean and `1.96 * s / sqrt(n)`, where `s` is the sample standard deviation. The
        half-width of a single value is NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))


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
