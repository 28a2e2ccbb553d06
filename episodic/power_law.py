"""error = a * n^-b: how an error falls with more of something, and how sure the exponent is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST = 3
"""Points that a fit needs: with two there is nothing by which it could be wrong."""

Z = 1.96


@dataclass(frozen=True)
class Fit:
    """b_low, b_high: 95 % interval; misfit: chi-square a degree of freedom, about 1 where the law holds; n: how many points"""

    a: float
    b: float
    b_low: float
    b_high: float
    misfit: float
    n: int
    _covariance: np.ndarray
    _quantile: float

    def at(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The law at `n`, and its 95 % band (of the law, not of a new measurement)."""
        x = np.stack([np.ones(len(n)), np.log(n)])
        middle = math.log(self.a) - self.b * x[1]
        half = self._quantile * np.sqrt(np.einsum("ik,ij,jk->k", x, self._covariance, x))
        return np.exp(middle), np.exp(middle - half), np.exp(middle + half)


def fit(n: np.ndarray, error: np.ndarray, sd: np.ndarray) -> Fit | None:
    """By weighted least squares in logarithms; None below LEAST points with an error above 0.

    sd: the standard error of each error, so that of its logarithm is sd / error. The interval is the delta method's. Where the points miss
    the law by more than their own errors allow (misfit above 1), it is wider by the root of that, with Student's t: what the law leaves out
    is then as uncertain as what was measured. No constant is added: a few points cannot tell it from the exponent.
    """
    n, error, sd = (np.asarray(values, np.float64) for values in (n, error, sd))
    kept = (error > 0) & (sd > 0)
    n, error, sd = n[kept], error[kept], sd[kept]
    if len(set(n.tolist())) < LEAST:
        return None
    x, y, weight = np.stack([np.ones(len(n)), np.log(n)], 1), np.log(error), np.square(error / sd)
    covariance = np.linalg.inv(x.T @ (weight[:, None] * x))
    level, slope = covariance @ (x.T @ (weight * y))
    freedom = len(n) - 2
    misfit = float((weight * np.square(y - level - slope * x[:, 1])).sum()) / freedom
    quantile = Z
    if misfit > 1:
        from scipy import stats  # imported where it is needed: most of the library does without

        covariance, quantile = covariance * misfit, float(stats.t.ppf(0.975, freedom))
    half = quantile * math.sqrt(covariance[1, 1])
    return Fit(math.exp(level), -float(slope), -float(slope) - half, -float(slope) + half, misfit, len(n), covariance, quantile)
