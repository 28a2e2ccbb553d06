"""Alex Nichol, Joshua Achiam, John Schulman: On First-Order Meta-Learning Algorithms (Reptile), 2018. https://arxiv.org/abs/1803.02999

    theta_i = theta after inner_steps steps of SGD or Adam (beta1 = 0) on mini-batches of support set i
    theta  <- theta + epsilon * mean_i (theta_i - theta)                            (algorithm 2)

epsilon is `train.meta_lr` with `train.optimizer: sgd`, annealed by `train.schedule: linear`; with `adam`, theta - theta_i is the gradient
that Adam takes, as the paper suggests too. More shots while training: `train.shots`.

Differs from the paper: each task's Adam starts anew, at test too (there: one state for all tasks, one after the other), so that its
first steps are nearly of one size, inner_lr, for every weight; mini-batches take the support set's classes in turn, in an order that
a task keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import gradient_descent, inner_optimizers
from episodic.engine.inner import Inner, expand

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner


@dataclass(frozen=True)
class Config(gradient_descent.Config):
    """optimizer: of the inner loop; batch: examples an inner step (null: the whole support set); test_steps: inner steps in validation."""

    inner_lr: float = 0.001
    inner_steps: int = 5
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int | None = 10
    test_steps: int = 50

    def __post_init__(self):
        super().__post_init__()
        require(
            self.batch is None or self.batch >= 1, "batch", self.batch, "must be null or at least 1"
        )
        require(self.test_steps >= 1, "test_steps", self.test_steps, "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Reptile(gradient_descent.Algorithm):
    inner_lr: float
    inner_steps: int
    optimizer: str
    batch: int | None
    test_steps: int

    through_steps = from_queries = False

    def inner(self, learner: MetaLearner, meta: Params, episode: Episode, progress: float) -> Inner:
        theta = expand(meta, episode.tasks)
        if self.optimizer == "adam":
            theta |= {
                inner_optimizers.SQUARE + name: torch.zeros_like(p) for name, p in theta.items()
            }

        def loss(theta: Params, step: int) -> Tensor:
            x, y, size = episode.batch(step, self.batch)
            return learner.objective.loss(learner.model(theta, x), y, size)

        rule = (
            inner_optimizers.adam(self.inner_lr)
            if self.optimizer == "adam"
            else inner_optimizers.sgd(self.inner_lr)
        )
        return Inner(theta, loss, rule, second_order=False, moved=tuple(meta))

    def back(self, inner: Inner, last: Params, v: Params, share: float) -> Params:
        """theta - theta_i in the place of a gradient."""
        return {name: (p - last[name]).detach() * share for name, p in inner.theta.items()}

    @property
    def at_test(self) -> Reptile:
        return replace(self, inner_steps=self.test_steps)


def build(config: Config) -> Reptile:
    return Reptile(**vars(config))
