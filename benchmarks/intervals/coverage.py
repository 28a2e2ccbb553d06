"""How often an interval covers the true value, and how wide it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coverage:
    """How often intervals cover the true value.

    Attributes:
        covered: Share of the worlds in which the interval covers it.
        width: Mean width, relative to the interval for known variances.
    """

    covered: float
    width: float

    def __str__(self) -> str:
        return f"{100 * self.covered:.1f} % | {self.width:.2f}"
