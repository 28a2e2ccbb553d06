"""Reptile: meta-learning by moving towards adapted parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["Reptile"]


@dataclass(frozen=True)
class Reptile(Algorithm):
    """Reptile: theta moves towards the adapted parameters of the tasks.

        theta_i = theta after inner_steps steps on mini-batches of support set i
        theta  <- theta + epsilon * mean_i (theta_i - theta)             (algorithm 2)

    The inner optimizer is SGD, or Adam with beta1 = 0. With `train.optimizer: sgd`, epsilon is
    `train.meta_lr`, annealed by `train.schedule: linear`. With `adam`, the gradient of the outer
    Adam is theta - theta_i, as the paper also suggests. Training episodes may have more shots than
    test episodes (`train.shots`).

    Differs from the paper: Adam's state is reset for each task, also at test time (paper: one state
    for all tasks in sequence), so the first steps have a size of about inner_lr for every weight.
    Classes alternate in mini-batches, in proportion to their numbers of support examples, in the
    same order throughout a task (authors' code: in random order). With inductive batch norm, all
    queries are normalized by the statistics of the support set. The authors' code normalizes each
    query in one batch with the support set.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        optimizer: Optimizer of the inner loop.
        batch: Support examples per inner step; None for the whole support set.
        test_steps: Inner steps in validation and at test time.

    Source: Alex Nichol, Joshua Achiam, John Schulman: On First-Order Meta-Learning Algorithms,
    2018. https://arxiv.org/abs/1803.02999
    """

    inner_lr: PositiveFloat = 0.001
    inner_steps: Steps = 5
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: Annotated[int, Ge(1), Le(1_000_000)] | None = 10
    test_steps: Steps = 50

    backprop_through_inner: ClassVar[bool] = False
    uses_query_loss: ClassVar[bool] = False

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand(meta, episode.tasks)
        if self.optimizer == "adam":
            theta |= {
                inner_optimizers.SQUARE + name: torch.zeros_like(p) for name, p in theta.items()
            }

        def loss(theta: Params, step: int) -> Tensor:
            x, y, size = episode.support_batch(step, self.batch)
            return learner.objective.loss(learner.model(theta, x), y, size)

        update = (
            inner_optimizers.adam(self.inner_lr)
            if self.optimizer == "adam"
            else inner_optimizers.sgd(self.inner_lr)
        )
        return InnerLoop(theta, loss, update, second_order=False, adapted_names=tuple(meta))

    def outer_gradient(
        self, inner: InnerLoop, adapted: Params, v: Params, task_weight: float
    ) -> Params:
        """Compute the difference theta - theta_i, which replaces the gradient."""
        return {name: (p - adapted[name]).detach() * task_weight for name, p in inner.theta.items()}

    @property
    def test_variant(self) -> Reptile:
        return replace(self, inner_steps=self.test_steps)
