"""What became of the score of an experiment since it last ran."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodic.analysis.comparison import Estimate, Resamples
from tasks.experiments import Experiment
from tasks.reports.comparison.groups import protocol_key


@dataclass(frozen=True)
class Change:
    """score: accuracy or mse; difference: now minus before, on the same test episodes"""

    score: str
    difference: Estimate

    @property
    def worse(self) -> bool:
        """By more than the interval of the difference."""
        return self.difference.high < 0 if self.score == "accuracy" else self.difference.low > 0

    @property
    def better(self) -> bool:
        return self.difference.low > 0 if self.score == "accuracy" else self.difference.high < 0

    def __str__(self) -> str:
        what, scale, unit = (
            ("accuracy", 100.0, " points")
            if self.score == "accuracy"
            else ("squared error", 1.0, "")
        )
        low, mean, high = (
            scale * x for x in (self.difference.low, self.difference.mean, self.difference.high)
        )
        if not (self.worse or self.better):
            return f"{what} is as before (difference {low:+.2f} to {high:+.2f}{unit})"
        low, high = sorted((abs(low), abs(high)))
        return f"{what} {'rose' if mean > 0 else 'fell'} by {abs(mean):.2f}{unit} ({low:.2f} to {high:.2f})"


def change(before: Experiment, after: Experiment) -> Change | None:
    """None where the two were not scored on the same episodes in the same mode."""
    if protocol_key(before) != protocol_key(after):
        return None
    return Change(
        after.score, Resamples(np.stack([after.scores, before.scores])).difference([0], [1])
    )
