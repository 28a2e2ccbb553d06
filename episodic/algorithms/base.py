"""What a method can differ in, and what the methods share that adapt by gradient steps on the support loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from episodic import rules
from episodic.adapt import Inner, expand
from episodic.config import require
from episodic.episode import Episode
from episodic.models import Model
from episodic.ops import Params
from episodic.sampling import Labels

if TYPE_CHECKING:
    from episodic.learner import MetaLearner


class Algorithm:
    """What differs between methods. By itself: a model that is trained on query sets and does not adapt."""

    inner_steps: int = 0
    """Inner steps while training; 0: the method has no inner loop, then or later."""

    regression: bool = True
    """Whether the method also fits targets that are no classes."""

    any_ways: bool = False
    """Whether what was trained at some number of ways answers at others."""

    labels: Labels = "episode"
    """What training episodes call their classes: `episode` (0 ... ways - 1), or `split` (the place among all training classes)."""

    changes: bool = False
    """Whether `inner` or `weights` depend on how far training is."""

    through_steps: bool = True
    """Whether the meta-gradient goes back through the inner steps; if not, `back` gives it from where they end."""

    from_queries: bool = True
    """Whether the meta-gradient follows from the loss on the query sets; if not, they are scored alone, and `back` gets no v."""

    def outputs_of_model(self, ways: int, classes: int) -> int:
        """Outputs of the model that the method trains, for episodes of `ways` classes out of `classes`; 0: features alone."""
        return ways

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        """The meta-parameters: the model's, and what else the method learns. No task axis."""
        return theta

    def inner(self, learner: MetaLearner, meta: Params, episode: Episode, progress: float) -> Inner:
        """How the tasks of `episode` adapt, from the meta-parameters; progress: the fraction of training that is done."""
        return Inner(expand(meta, episode.tasks))

    def weights(self, progress: float) -> tuple[float, ...] | None:
        """Weights of the query losses at theta_0 ... theta_inner_steps in the meta-gradient (None: the last alone, 1)."""
        return None

    def back(self, inner: Inner, last: Params, v: Params, share: float) -> Params:
        """The meta-gradient at theta_0 (`inner.theta`) of a method without `through_steps`.

        last, v: theta after the steps, and the gradient there of the mean query loss over the meta-batch; share: what one task
        counts in that mean
        """
        raise NotImplementedError("a method without through_steps defines back")

    def outputs(self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str) -> Tensor:
        """The adapted answers on the query set `(tasks, n, outputs)`."""
        return learner.on_query(learner.model, theta, episode, batch_norm)

    def head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor] | None:
        """The linear head that solves a problem over the features of the support set `(tasks, n, width)`: weight `(tasks, width, ways)` and
        bias, with which `outputs` is features @ weight + bias. None: the method solves none."""
        return None

    @property
    def at_test(self) -> Algorithm:
        """The method as it adapts to new tasks once it is trained."""
        return self


@dataclass(frozen=True)
class Config:
    """inner_lr: size of an inner step; inner_steps: how many while training."""

    inner_lr: float = 0.4
    inner_steps: int = 1

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(0 < self.inner_lr < float("inf"), "inner_lr", self.inner_lr, "must be a number greater than 0")
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
        return Inner(theta, lambda theta, step: learner.support_loss(theta, episode), rules.sgd(self.inner_lr), self.second_order)

    @property
    def at_test(self) -> GradientMethod:
        return replace(self, inner_steps=max(self.inner_steps, LEAST_STEPS))
