"""Baselines without meta-learning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from episodic import ops
from episodic.core import float64, random_numbers
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.objective import mean_per_task
from episodic.engine import inner_optimizers
from episodic.engine.inner import InnerLoop, adapted_parameters
from episodic.engine.learner import MetaLearner
from episodic.engine.processes import ProcessGroup
from episodic.training.evaluation import ExactChunks

__all__ = [
    "choose_fine_tuning_rate",
    "constant_prediction_errors",
    "input_centroid_scores",
    "random_init_scores",
]

FINE_TUNING_STEPS = 20
"""Number of gradient steps on the support set from a random initialization."""

FINE_TUNING_RATES = (0.01, 0.1, 0.4)
"""Candidate learning rates of these steps. The best one in validation is used."""

HIGHER_RATES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Further candidates, tried in this order while each is better than all lower ones. Features of
length 1 need such rates."""


def input_centroid_scores(episode: Episode) -> Tensor:
    """Score the nearest class mean in input space, such as raw pixels.

    Distances are Euclidean.

    Returns:
        Accuracies `(tasks,)`, float64.
    """
    support, query = episode.support_x.flatten(2), episode.query_x.flatten(2)
    centroids = ops.class_means(support, episode.support_y, episode.classes, episode.support_size)
    distances = -episode.mask_classes(-torch.cdist(query, centroids))
    is_correct = float64.to_float64(distances.argmin(-1) == episode.query_y)
    return mean_per_task(is_correct, episode.query_size)


def constant_prediction_errors(episode: Episode, value: Tensor) -> Tensor:
    """Compute the mean squared error of a constant prediction.

    Args:
        episode: Regression tasks.
        value: The prediction, which broadcasts over the query targets.

    Returns:
        Errors `(tasks,)`.
    """
    return mean_per_task((episode.query_y - value).square(), episode.query_size)


def random_init_scores(
    learner: MetaLearner, seed: int, episode: Episode, rate: float, first: int = 0
) -> Tensor:
    """Score the model trained only on the support set, from random weights.

    Args:
        learner: The learner. Only its model and objective are used.
        seed: Seed of the initial weights, which differ between episodes.
        episode: The tasks. They may have fewer classes than the model has outputs.
        rate: Learning rate of the gradient steps.
        first: Index of the first episode, so weights do not depend on the chunks.

    Returns:
        The scores `(tasks,)`.
    """
    # The purpose is part of the key: renaming it changes all results.
    initial = [
        learner.model.init(random_numbers.generator(seed, f"random initialisation {first + i}"))
        for i in range(episode.tasks)
    ]
    x = episode.support_x
    # Weights have the dtype of the inputs, unless these are tokens.
    like = x if x.is_floating_point() else torch.empty(0, device=x.device)
    theta = {name: torch.stack([draw[name] for draw in initial]).to(like) for name in initial[0]}

    def keep_classes(outputs: Tensor) -> Tensor:
        """Remove the outputs of classes that the tasks do not have."""
        return episode.mask_classes(outputs[..., : episode.ways] if episode.ways else outputs)

    def support_loss(theta: Params, step: int) -> Tensor:
        outputs = keep_classes(learner.model(theta, x))
        return learner.objective.loss(outputs, episode.support_y, episode.support_size)

    inner = InnerLoop(
        theta,
        support_loss,
        inner_optimizers.sgd(rate),
        second_order=False,
    )
    theta = adapted_parameters(inner, FINE_TUNING_STEPS)
    with torch.no_grad():
        outputs = keep_classes(
            learner.apply_to_query(learner.model, theta, episode, learner.batch_norm)
        )
        return learner.objective.score(outputs, episode.query_y, episode.query_size)


def choose_fine_tuning_rate(
    learner: MetaLearner, seed: int, validation: Episode, group: ProcessGroup | None = None
) -> float:
    """Choose the learning rate with the best `random_init_scores` on validation episodes.

    The candidates are `FINE_TUNING_RATES`, and `HIGHER_RATES` if the largest of these is the best.

    Args:
        learner: As for `random_init_scores`.
        seed: As for `random_init_scores`.
        validation: The validation episodes.
        group: The processes that share the work.
    """

    def score_rate(rate: float) -> Tensor:
        first, scores = 0, []
        for chunk in ExactChunks(learner, validation):
            scores.append(random_init_scores(learner, seed, chunk, rate, first))
            first += chunk.tasks
        return float64.to_float64(torch.cat(scores)).mean().view(1, 1)

    def is_better(score: float) -> bool:
        return math.isfinite(score) and (
            math.isnan(best_score) or learner.objective.is_better(score, best_score)
        )

    group = group or ProcessGroup()
    rates = FINE_TUNING_RATES
    means = group.gather_rows(lambda i: score_rate(rates[i]), [1] * len(rates))[:, 0].tolist()
    best_rate, best_score = rates[0], math.nan
    for rate, score in zip(rates, means, strict=True):
        if is_better(score):
            best_rate, best_score = rate, score
    for higher in HIGHER_RATES if best_rate == rates[-1] else ():
        score = float(group.gather_rows(lambda _, rate=higher: score_rate(rate), [1])[0, 0])  # type: ignore[misc]
        if not is_better(score):
            break
        best_rate, best_score = higher, score
    return best_rate
