"""Algorithms that adapt by gradient steps on the support loss: what they share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import inner_optimizers
from episodic.engine.inner import Inner, expand
from episodic.engine.learner import Algorithm, MetaLearner


@dataclass(frozen=True)
class Config:
    """inner_lr: size of an inner step; inner_steps: how many while training."""

    inner_lr: float = 0.4
    inner_steps: int = 1

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(
            0 < self.inner_lr < float("inf"),
            "inner_lr",
            self.inner_lr,
            "must be a number greater than 0",
        )
        require(self.inner_steps >= 1, "inner_steps", self.inner_steps, "must be at least 1")


LEAST_STEPS = 3
"""Inner steps at test, at least, of the methods that gain from a few more than in training."""


@dataclass(frozen=True)
class GradientMethod(Algorithm):
    """All parameters move by gradient descent at one rate; `second_order`: the meta-gradient sees through the inner gradient."""

    inner_lr: float
    inner_steps: int = 1
    second_order: bool = True

    def inner(self, learner: MetaLearner, meta: Params, episode: Episode, progress: float) -> Inner:
        theta = expand(meta, episode.tasks)
        return Inner(
            theta,
            lambda theta, step: learner.support_loss(theta, episode),
            inner_optimizers.sgd(self.inner_lr),
            self.second_order,
        )

    @property
    def at_test(self) -> GradientMethod:
        return replace(self, inner_steps=max(self.inner_steps, LEAST_STEPS))
