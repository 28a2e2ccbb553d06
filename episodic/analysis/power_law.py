"""error = a * n^-b: how an error falls with more of something, and how sure the exponent is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST = 4
"""Points that a fit needs: with fewer there is next to nothing by which it could be seen to be wrong."""

Z = 1.96


@dataclass(frozen=True)
class Fit:
    """b_low, b_high: 95 % interval; misfit: chi-square a degree of freedom, about 1 where the law holds; p: of so large a misfit where it
    does; n: how many points"""

    a: float
    b: float
    b_low: float
    b_high: float
    misfit: float
    p: float
    n: int
    _covariance: np.ndarray

    def at(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The law at `n`, and its 95 % band (of the law, not of a new measurement)."""
        x = np.stack([np.ones(len(n)), np.log(n)])
        middle = math.log(self.a) - self.b * x[1]
        half = Z * np.sqrt(np.einsum("ik,ij,jk->k", x, self._covariance, x))
        return np.exp(middle), np.exp(middle - half), np.exp(middle + half)


def fit(n: np.ndarray, error: np.ndarray, sd: np.ndarray) -> Fit | None:
    """By weighted least squares in logarithms; None below LEAST points with an error above 0.

    sd: the standard error of each error, so that of its logarithm is sd / error. The interval is the delta method's with a normal quantile,
    wider by the root of the misfit where that is above 1. It holds an exact law's exponent in 95 to 98 of 100 cases; where points scatter
    by much more than their errors say, the scatter of a few is all there is to go by, and it is too narrow (4 points: about 80 of 100). No
    constant is added: a few points cannot tell it from the exponent.
    """
    n, error, sd = (np.asarray(values, np.float64) for values in (n, error, sd))
    kept = (error > 0) & (sd > 0)
    n, error, sd = n[kept], error[kept], sd[kept]
    if len(set(n.tolist())) < LEAST:
        return None
    from scipy import stats  # imported where it is needed: most of the library does without

    x, y, weight = np.stack([np.ones(len(n)), np.log(n)], 1), np.log(error), np.square(error / sd)
    covariance = np.linalg.inv(x.T @ (weight[:, None] * x))
    level, slope = covariance @ (x.T @ (weight * y))
    freedom = len(n) - 2
    misfit = float((weight * np.square(y - level - slope * x[:, 1])).sum()) / freedom
    covariance = covariance * max(1.0, misfit)
    half = Z * math.sqrt(covariance[1, 1])
    p = float(stats.chi2.sf(misfit * freedom, freedom))
    return Fit(
        math.exp(level),
        -float(slope),
        -float(slope) - half,
        -float(slope) + half,
        misfit,
        p,
        len(n),
        covariance,
    )
