"""Power laws `error = a * n^-b`, with a confidence interval of the exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from episodic.core.statistics import NORMAL_QUANTILE, student_quantile

__all__ = ["MIN_POINTS", "PowerLaw", "fit_power_law"]

MIN_POINTS = 4
"""Minimum number of points for a fit. With fewer, deviations from the law are hardly detectable."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law.

    Args:
        a: The factor.
        b: The exponent.
        b_low: Lower end of the 95 % confidence interval of the exponent.
        b_high: Upper end of the interval.
        misfit: Reduced chi-square, about 1 if the law holds.
        p: Probability of a misfit at least as large if the law holds.
        n: Number of points.
        _covariance: Covariance `(2, 2)` of `log(a)` and `-b`, for a normal quantile.
    """

    a: float
    b: float
    b_low: float
    b_high: float
    misfit: float
    p: float
    n: int
    _covariance: np.ndarray

    def at(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate the law at `n`, `(k,)`.

        Returns:
            The law, and the lower and upper end of its 95 % confidence band, each `(k,)`. The band
            is for the law, not for a new measurement.
        """
        x = np.stack([np.ones(len(n)), np.log(n)])
        middle = math.log(self.a) - self.b * x[1]
        half = NORMAL_QUANTILE * np.sqrt(np.einsum("ik,ij,jk->k", x, self._covariance, x))
        return np.exp(middle), np.exp(middle - half), np.exp(middle + half)


def fit_power_law(n: np.ndarray, error: np.ndarray, sd: np.ndarray) -> PowerLaw | None:
    """Fit a power law by weighted least squares on the logarithms.

    The standard error of a logarithm is `sd / error` (delta method). The interval is the wider of
    two: that of a normal distribution with these standard errors, which is valid for an exact law,
    and that of Student's t with the scatter of the residuals, which is also valid if points scatter
    by more. The law has no additive constant, because few points cannot separate it from the
    exponent.

    Args:
        n: The independent variable, `(k,)`.
        error: The error at each `n`, `(k,)`. Points with an error of 0 are excluded.
        sd: The standard error of each error, `(k,)`.

    Returns:
        The law, or None for fewer than `MIN_POINTS` distinct `n`.
    """
    n, error, sd = (np.asarray(values, np.float64) for values in (n, error, sd))
    usable = (error > 0) & (sd > 0)
    n, error, sd = n[usable], error[usable], sd[usable]
    if len(set(n.tolist())) < MIN_POINTS:
        return None
    from scipy import stats  # an optional dependency of the library

    x, y, weight = np.stack([np.ones(len(n)), np.log(n)], 1), np.log(error), np.square(error / sd)
    covariance = np.linalg.inv(x.T @ (weight[:, None] * x))
    level, slope = covariance @ (x.T @ (weight * y))
    freedom = len(n) - 2
    misfit = float((weight * np.square(y - level - slope * x[:, 1])).sum()) / freedom
    relative = student_quantile(freedom) / NORMAL_QUANTILE
    covariance = covariance * max(1.0, relative**2 * misfit)
    half = NORMAL_QUANTILE * math.sqrt(covariance[1, 1])
    return PowerLaw(
        a=math.exp(level),
        b=-float(slope),
        b_low=-float(slope) - half,
        b_high=-float(slope) + half,
        misfit=misfit,
        p=float(stats.chi2.sf(misfit * freedom, freedom)),
        n=len(n),
        _covariance=covariance,
    )
