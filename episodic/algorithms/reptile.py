"""The algorithm `reptile`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["Reptile"]


@dataclass(frozen=True)
class Reptile(Algorithm):
    """Alex Nichol, Joshua Achiam, John Schulman: On First-Order Meta-Learning Algorithms (Reptile), 2018. https://arxiv.org/abs/1803.02999

        theta_i = theta after inner_steps steps of SGD or Adam (beta1 = 0) on mini-batches of support set i
        theta  <- theta + epsilon * mean_i (theta_i - theta)                            (algorithm 2)

    epsilon is `train.meta_lr` with `train.optimizer: sgd`, annealed by `train.schedule: linear`; with `adam`, theta - theta_i is the gradient
    that Adam takes, as the paper suggests too. More shots while training: `train.shots`.

    Differs from the paper: each task's Adam starts anew, at test too (there: one state for all tasks, one after the other), so that its
    first steps are nearly of one size, inner_lr, for every weight; mini-batches take the support set's classes in turn, in an order that
    a task keeps.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        optimizer: Optimizer of the inner loop.
        batch: Support examples per inner step; None for the whole support set.
        test_steps: Inner steps in validation and at test.
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

    def outer_gradient(self, inner: InnerLoop, last: Params, v: Params, share: float) -> Params:
        """theta - theta_i in the place of a gradient."""
        return {name: (p - last[name]).detach() * share for name, p in inner.theta.items()}

    @property
    def test_variant(self) -> Reptile:
        return replace(self, inner_steps=self.test_steps)
