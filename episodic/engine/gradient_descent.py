"""Base class of algorithms that adapt by gradient descent on the support loss."""

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

__all__ = ["MIN_TEST_STEPS", "GradientDescent", "Steps"]

Steps = Annotated[int, Ge(1), Le(10_000)]
"""A number of inner steps."""

MIN_TEST_STEPS = 3
"""Minimum number of inner steps at test time: algorithms that are trained with fewer steps still
improve with a few more."""


@dataclass(frozen=True)
class GradientDescent(Algorithm):
    """Base class of algorithms that adapt parameters by gradient descent.

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
        return replace(self, inner_steps=max(self.inner_steps, MIN_TEST_STEPS))
