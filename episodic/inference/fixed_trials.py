"""Fixed trials, such as those that people answered, through `adapt` and `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from episodic.core.statistics import mean_ci95
from episodic.datasets.sources.one_shot_runs import Trial
from episodic.inference.few_shot import FewShotLearner

__all__ = ["TrialAnswers", "answer_trials"]


@dataclass(frozen=True)
class TrialAnswers:
    """The answers to fixed trials.

    Args:
        names: Name of each trial.
        predicted: The predicted labels of each trial, in the order of its queries.
        errors: The fraction of wrong answers of each trial, float64 `(trials,)`.
    """

    names: tuple[str, ...]
    predicted: tuple[tuple[str, ...], ...]
    errors: np.ndarray

    @property
    def error(self) -> tuple[float, float]:
        """The mean error over trials and the half-width of its 95 % confidence interval."""
        return mean_ci95(self.errors)


def answer_trials(learner: FewShotLearner, trials: Sequence[Trial]) -> TrialAnswers:
    """Adapt to the support set of each trial and classify its queries.

    Each query is classified on its own, as people did: a transductive model sees one at a time.

    Args:
        learner: A trained model, as from `episodic.load`.
        trials: The trials, as from `episodic.datasets.sources.one_shot_runs.read_runs`.

    Raises:
        AdaptError: The model does not adapt to the number of classes of a trial.
        InputError: The model is not for images.
    """
    predicted, errors = [], []
    for trial in trials:
        adapted = learner.adapt(trial.support_x, trial.support_y)
        size = 1 if adapted.transductive else len(trial.query_x)
        batches = [trial.query_x[i : i + size] for i in range(0, len(trial.query_x), size)]
        labels = [str(label) for batch in batches for label in adapted.predict(batch)]
        predicted.append(tuple(labels))
        errors.append(np.mean([a != b for a, b in zip(labels, trial.query_y, strict=True)]))
    return TrialAnswers(tuple(t.name for t in trials), tuple(predicted), np.array(errors))
