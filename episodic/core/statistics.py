"""How sure a mean is."""

from __future__ import annotations

import math

import numpy as np


def mean_ci95(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, 1.96 sigma / sqrt(n), over episodes; half-width NaN for n = 1."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))
