"""The confidence interval of a mean."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["mean_ci95"]


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
