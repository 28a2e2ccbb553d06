"""Intervals of the exponent of a power law."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from benchmarks.intervals.coverage import Coverage
from episodic.analysis.power_law import fit_power_law
from episodic.core.statistics import NORMAL_QUANTILE

POINTS, SCATTERS = (4, 6, 10), (0.0, 1.0, 2.0, 4.0)
"""Points of a power law, and their scatter about it in standard errors, besides these."""


def measure_power_law(points: int, scatter: float, worlds: int) -> tuple[Coverage, Coverage]:
    """Measure the interval of an exponent.

    Args:
        points: Number of points.
        scatter: Standard deviation of the true errors about the law, in standard errors.
        worlds: Number of simulated fits.

    Returns:
        The coverage, and that with the normal quantile.
    """
    rng, truth, sd = np.random.default_rng(3), 0.4, 0.02
    n = np.geomspace(10, 1000, points)
    law = 0.6 * n**-truth
    x = np.log(n) - np.log(n).mean()
    unit = NORMAL_QUANTILE * sd * math.hypot(1, scatter) / math.sqrt(float(x @ x))
    relative = stats.t.ppf(0.975, points - 2) / NORMAL_QUANTILE
    covered, widths, normal, normal_widths = [], [], [], []
    for _ in range(worlds):
        true = law * np.exp(scatter * sd * rng.normal(size=points))
        fit = fit_power_law(n, true + sd * law * rng.normal(size=points), sd * law)
        assert fit is not None  # noqa: S101 - there are enough points
        half = (fit.b_high - fit.b_low) / 2
        other = half * math.sqrt(max(1, fit.misfit) / max(1, relative**2 * fit.misfit))
        distance = abs(fit.b - truth)
        covered.append(distance <= half)
        widths.append(half)
        normal.append(distance <= other)
        normal_widths.append(other)
    return (
        Coverage(float(np.mean(covered)), float(np.mean(widths)) / unit),
        Coverage(float(np.mean(normal)), float(np.mean(normal_widths)) / unit),
    )
