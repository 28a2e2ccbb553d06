"""Algorithms that adapt by gradient steps on the support loss: what they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import inner_optimizers
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner

Steps = Annotated[int, Ge(1), Le(10_000)]

LEAST_STEPS = 3
"""Inner steps at test, at least, of the methods that gain from a few more than in training."""


@dataclass(frozen=True)
class GradientDescent(Algorithm):
    """All parameters adapt by gradient descent at one learning rate.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
    """

    inner_lr: PositiveFloat = 0.4
    inner_steps: Steps = 1

    second_order: ClassVar[bool] = True
    """Whether the meta-gradient differentiates through the inner gradient."""

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand(meta, episode.tasks)
        return InnerLoop(
            theta,
            lambda theta, step: learner.support_loss(theta, episode),
            inner_optimizers.sgd(self.inner_lr),
            self.second_order,
        )

    @property
    def test_variant(self) -> Algorithm:
        return replace(self, inner_steps=max(self.inner_steps, LEAST_STEPS))
