"""The change of an experiment's score since it last ran."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodic.analysis.comparison import Estimate, PairedScores
from tasks.experiments import Experiment
from tasks.reports.comparison.protocols import build_protocol_key


@dataclass(frozen=True)
class ScoreChange:
    """The change of a score.

    Attributes:
        score: `accuracy` or `mse`.
        difference: Score now minus score before, on the same test episodes.
    """

    score: str
    difference: Estimate

    @property
    def worse(self) -> bool:
        """Whether the score got worse by more than the interval of the difference."""
        return self.difference.high < 0 if self.score == "accuracy" else self.difference.low > 0

    @property
    def better(self) -> bool:
        """Whether the score got better by more than the interval of the difference."""
        return self.difference.low > 0 if self.score == "accuracy" else self.difference.high < 0

    def __str__(self) -> str:
        name, scale, unit = "squared error", 1.0, ""
        if self.score == "accuracy":
            name, scale, unit = "accuracy", 100.0, " percentage points"
        ends = self.difference.low, self.difference.mean, self.difference.high
        low, mean, high = (scale * value for value in ends)
        if not (self.worse or self.better):
            return f"{name} did not change significantly (95 % CI {low:+.2f} to {high:+.2f}{unit})"
        verb = "rose" if mean > 0 else "fell"
        low, high = sorted((abs(low), abs(high)))
        return f"{name} {verb} by {abs(mean):.2f}{unit} (95 % CI {low:.2f} to {high:.2f})"


def measure_change(before: Experiment, after: Experiment) -> ScoreChange | None:
    """Measure the change of a score; None if the protocols differ."""
    if build_protocol_key(before) != build_protocol_key(after):
        return None
    scores = PairedScores(np.stack([after.scores, before.scores]))
    return ScoreChange(after.score, scores.difference([0], [1]))
