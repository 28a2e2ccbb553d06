"""How far predictions of a head without meta-training can be trusted.

There are no validation episodes, so it is learned from examples left out of the support set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
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
from episodic.training.conformal import fit_prediction_sets
from episodic.training.reliability import Reliability
from episodic.training.unknown import UnknownDetector, find_threshold, squared_distances

__all__ = ["LeftOut", "learn_on_support", "predict_left_out"]

PRIOR_MEAN, PRIOR_SD = -0.5, 0.5
"""Prior of log T, a normal distribution: the lowest cross-entropy on validation classes of the
Grocery Store dataset, over five heads and 2, 5 and 10 shots (docs/results/photographs.md)."""

TEMPERATURES = 2 ** (torch.arange(-96, 97, dtype=torch.float64) / 16)
"""Candidates, from 1/64 to 64."""


MIN_UNKNOWN_CLASSES = 3
"""Two classes remain if one is left out: the unit of `mean_distance` is the distance of two."""


class LeftOut(NamedTuple):
    """Predictions for examples by heads that are fitted without them, on the CPU in float64.

    Attributes:
        logits: Logits `(n, classes)`.
        y: Labels `(n,)`.
        known: The score `mean_distance` of each example `(n,)`.
        unknown: The score without the examples of its class, `(n,)`: that of an unknown class. It
            needs `MIN_UNKNOWN_CLASSES`.

    A score is not finite if the classes that it compares have the same mean.
    """

    logits: Tensor
    y: Tensor
    known: Tensor
    unknown: Tensor


def learn_on_support(
    learner: MetaLearner, params: Params, theta: Params, support: Episode
) -> Reliability | None:
    """Learn how far predictions can be trusted, from left-out support examples.

    - **Calibration**: a temperature T,

          T = argmin_T  sum_i -log softmax_{y_i}(z_i / T) + (log T - m)^2 / (2 s^2)

      z_i are the logits of example i by a head that is fitted without it. A few examples say little
      about T, so log T has a normal prior with mean m and standard deviation s.
    - **Prediction sets**: those of `fit_prediction_sets`, with each left-out example as a task. The
      head in use has one more example per class, so the promise holds approximately.
    - **Unknown classes**: a threshold for the score `mean_distance`, which separates left-out
      examples from those whose class is left out too.

    Args:
        learner: The head on features.
        params: Its parameters before adaptation, without a task axis.
        theta: Its parameters after adaptation to the support set, `(1, *shape)`.
        support: The support set, one task.

    Returns:
        What was learned. None if a class has a single example.
    """
    counts = support.support_y[0].bincount()
    if int(counts.min()) < 2:
        return None
    found = predict_left_out(learner, params, theta, support)

    def loss(temperature: Tensor) -> float:
        losses = torch.nn.functional.cross_entropy(
            found.logits / temperature, found.y, reduction="sum"
        )
        return float(losses + ((temperature.log() - PRIOR_MEAN) / PRIOR_SD) ** 2 / 2)

    calibration = Calibration(float(min(TEMPERATURES, key=loss)))
    true = calibration(found.logits).softmax(-1).gather(-1, found.y[:, None])
    detector = None
    scores = torch.cat([found.known, found.unknown]).numpy()
    if len(counts) >= MIN_UNKNOWN_CLASSES and np.isfinite(scores).all():
        threshold = find_threshold(scores, np.arange(len(scores)) < len(found.known))
        detector = UnknownDetector("mean_distance", threshold)
    return Reliability(
        len(counts),
        max(1, int(counts.double().mean())),
        calibration,
        fit_prediction_sets(true),
        detector,
    )


def predict_left_out(
    learner: MetaLearner, params: Params, theta: Params, support: Episode
) -> LeftOut:
    """Predict support examples by heads that are fitted without them.

    Each fit leaves out one example of every class, so classes stay balanced. There are as many fits
    as the smallest class has examples, at most `MAX_REFITS`. What a head chooses per task, such as
    the regularization, is chosen once, with all examples.

    Args:
        learner: The head on features.
        params: Its parameters before adaptation, without a task axis.
        theta: Its parameters after adaptation to the support set, `(1, *shape)`.
        support: The support set, one task, with at least two examples per class.

    Returns:
        The predictions; n is fits * classes.
    """
    y = support.support_y[0]
    counts = y.bincount()
    starts = counts.cumsum(0) - counts
    learner = _fix_regularization(learner.test_variant, params, support)
    is_fitted = HEAD[0] in theta  # such a head has seen all examples, and is fitted again
    logits, known, unknown = [], [], []
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
            features = learner.apply_to_both(
                learner.model.features, theta, episode, learner.batch_norm
            )
        scores = _measure_left_out(*features, episode.support_y)
        known.append(scores[0])
        unknown.append(scores[1])
    labels = torch.arange(len(counts)).repeat(len(logits))
    parts = [float64.to_float64(torch.cat(part)).cpu() for part in (logits, known, unknown)]
    return LeftOut(parts[0], labels, *parts[1:])


def _measure_left_out(support: Tensor, query: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `mean_distance` for one query of each class, with and without its class.

    The means in use are those of one example more. With a variance v within classes, the squared
    distance to the mean of k examples is larger by v / k than that to the mean of the class, so
    v / (k - 1) - v / k is subtracted for each mean.
    """
    support, query = support[0].flatten(1), query[0].flatten(1)
    one_hot = torch.nn.functional.one_hot(support_y[0]).to(support.dtype)
    shots = one_hot.sum(0)
    means, ways = one_hot.T @ support / shots[:, None], len(shots)
    # Sums of squares around the means of all examples, by Welford's update with the query.
    scatter = (support - means[support_y[0]]).square().sum()
    scatter = scatter + (shots / (shots + 1) * (query - means).square().sum(1)).sum()
    variance = scatter / shots.sum()  # its degrees of freedom: all examples less the classes
    excess = variance / (shots * (shots + 1))
    itself = torch.eye(ways, dtype=torch.bool).to(means.device)
    between = squared_distances(means[None], means[None])[0] - excess - excess[:, None]
    between = between.clamp_min(0).masked_fill(itself, 0)
    to_means = (squared_distances(query[None], means[None])[0] - excess).clamp_min(0)
    total = between.sum()
    without = (total - 2 * between.sum(1)) / ((ways - 1) * (ways - 2))
    others = to_means.masked_fill(itself, torch.inf)
    return -to_means.amin(1) / (total / (ways * (ways - 1))), -others.amin(1) / without


def _fix_regularization(learner: MetaLearner, params: Params, support: Episode) -> MetaLearner:
    """Return the learner with the regularization that logistic regression chooses for the task.

    Other heads store their choice in theta.
    """
    algorithm = learner.algorithm
    if not isinstance(algorithm, LogisticRegression):
        return learner
    chosen = float(algorithm.choose_regularization(learner, params, support))
    return replace(learner, algorithm=replace(algorithm, regularization=chosen))
