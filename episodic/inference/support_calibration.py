"""Calibration of a head without meta-training, on examples left out of its support set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from episodic.algorithms.logistic import LogisticRegression
from episodic.core import float64
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine.learner import MetaLearner
from episodic.engine.leave_one_out import MAX_REFITS
from episodic.training import evaluation
from episodic.training.calibration import Calibration

__all__ = ["calibrate_on_support", "left_out_logits"]

PRIOR_MEAN, PRIOR_SD = -0.5, 0.5
"""Prior of log T, a normal distribution: the lowest cross-entropy on validation classes of the
Grocery Store dataset, over five heads and 2, 5 and 10 shots (docs/results/photographs.md)."""

TEMPERATURES = 2 ** (torch.arange(-96, 97, dtype=torch.float64) / 16)
"""Candidates, from 1/64 to 64."""


def calibrate_on_support(
    learner: MetaLearner, params: Params, theta: Params, support: Episode
) -> Calibration | None:
    """Fit a temperature to the predictions of left-out support examples.

        T = argmin_T  sum_i -log softmax_{y_i}(z_i / T) + (log T - m)^2 / (2 s^2)

    z_i are the logits of example i by a head that is fitted without it. A few examples say little
    about T, so log T has a normal prior with mean m and standard deviation s.

    Args:
        learner: The head on features.
        params: Its parameters before adaptation, without a task axis.
        theta: Its parameters after adaptation to the support set, `(1, *shape)`.
        support: The support set, one task.

    Returns:
        The calibration. None if a class has a single example.
    """
    if int(support.support_y[0].bincount().min()) < 2:
        return None
    logits, y = left_out_logits(learner, params, theta, support)

    def loss(temperature: Tensor) -> float:
        losses = torch.nn.functional.cross_entropy(logits / temperature, y, reduction="sum")
        return float(losses + ((temperature.log() - PRIOR_MEAN) / PRIOR_SD) ** 2 / 2)

    return Calibration(float(min(TEMPERATURES, key=loss)))


def left_out_logits(
    learner: MetaLearner, params: Params, theta: Params, support: Episode
) -> tuple[Tensor, Tensor]:
    """Compute the logits of support examples by heads that are fitted without them.

    Each fit leaves out one example of every class, so classes stay balanced. There are as many fits
    as the smallest class has examples, at most `MAX_REFITS`. What a head chooses per task, such as
    the regularization, is chosen once, with all examples.

    Args:
        learner: The head on features.
        params: Its parameters before adaptation, without a task axis.
        theta: Its parameters after adaptation to the support set, `(1, *shape)`.
        support: The support set, one task, with at least two examples per class.

    Returns:
        Logits `(fits * classes, classes)` and labels `(fits * classes,)`, on the CPU in float64.
    """
    y = support.support_y[0]
    counts = y.bincount()
    starts = counts.cumsum(0) - counts
    learner = _fix_regularization(learner.test_variant, params, support)
    is_fitted = HEAD[0] in theta  # such a head has seen all examples, and is fitted again
    logits = []
    for fit in range(min(int(counts.min()), MAX_REFITS)):
        left_out = starts + fit
        kept = torch.ones_like(y, dtype=torch.bool)
        kept[left_out] = False
        episode = Episode(
            support.support_x[:, kept],
            support.support_y[:, kept],
            support.support_x[:, left_out],
            support.support_y[:, left_out],
            support.ways,
        )
        if is_fitted:
            theta = evaluation.adapt(learner, params, episode)
        with torch.no_grad():
            logits.append(learner.query_outputs(theta, episode)[0])
    labels = torch.arange(len(counts)).repeat(len(logits))
    return float64.to_float64(torch.cat(logits)).cpu(), labels


def _fix_regularization(learner: MetaLearner, params: Params, support: Episode) -> MetaLearner:
    """Return the learner with the regularization that logistic regression chooses for the task.

    Other heads store their choice in theta.
    """
    algorithm = learner.algorithm
    if not isinstance(algorithm, LogisticRegression):
        return learner
    chosen = float(algorithm.choose_regularization(learner, params, support))
    return replace(learner, algorithm=replace(algorithm, regularization=chosen))
