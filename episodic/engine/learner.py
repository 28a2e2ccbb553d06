"""A meta-learner: a model, a method that adapts it, and what it is scored by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.config import ConfigError, Section
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.core.objective import Objective
from episodic.data.sampling import Labels
from episodic.engine.inner import InnerLoop, expand

BATCH_NORM = ("transductive", "inductive")

Function = Callable[..., Tensor]
"""(theta, x, reference) -> `(tasks, n, ...)`: a model, or its features."""


class Algorithm(Section):
    """What differs between methods. By itself: a model that is trained on query sets and does not adapt."""

    inner_steps: int = 0
    """Inner steps of the method; 0: it has no inner loop, in training or at test."""

    regression: ClassVar[bool] = True
    """Whether the method also fits targets that are no classes."""

    any_ways: ClassVar[bool] = False
    """Whether what was trained at some number of ways answers at others."""

    labels: ClassVar[Labels] = "episode"
    """What training episodes call their classes: `episode` (0 ... ways - 1), or `split` (the place among all training classes)."""

    scheduled: ClassVar[bool] = False
    """Whether `inner` or `weights` depend on how far training is."""

    backprop_through_inner: ClassVar[bool] = True
    """Whether the meta-gradient goes back through the inner steps; if not, `back` gives it from where they end."""

    uses_query_loss: ClassVar[bool] = True
    """Whether the meta-gradient follows from the loss on the query sets; if not, they are scored alone, and `back` gets no v."""

    @property
    def training_steps(self) -> int:
        """Inner steps in training."""
        return self.inner_steps

    def count_model_outputs(self, ways: int, classes: int) -> int:
        """Outputs of the model that the method trains, for episodes of `ways` classes out of `classes`; 0: features alone."""
        return ways

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        """The meta-parameters: the model's, and what else the method learns. No task axis."""
        return theta

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        """How the tasks of `episode` adapt, from the meta-parameters; progress: the fraction of training that is done."""
        return InnerLoop(expand(meta, episode.tasks))

    def query_loss_weights(self, progress: float) -> tuple[float, ...] | None:
        """Weights of the query losses at theta_0 ... theta_inner_steps in the meta-gradient (None: the last alone, 1)."""
        return None

    def outer_gradient(self, inner: InnerLoop, last: Params, v: Params, share: float) -> Params:
        """The meta-gradient at theta_0 (`inner.theta`) of a method without `backprop_through_inner`.

        last, v: theta after the steps, and the gradient there of the mean query loss over the meta-batch; share: what one task
        counts in that mean
        """
        raise NotImplementedError("a method without backprop_through_inner defines back")

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        """The adapted answers on the query set `(tasks, n, outputs)`."""
        return learner.apply_to_query(learner.model, theta, episode, batch_norm)

    def solve_head(
        self, theta: Params, support: Tensor, episode: Episode
    ) -> tuple[Tensor, Tensor] | None:
        """The linear head that solves a problem over the features of the support set `(tasks, n, width)`: weight `(tasks, width, ways)` and
        bias, with which `outputs` is features @ weight + bias. None: the method solves none."""
        return None

    @property
    def test_variant(self) -> Algorithm:
        """The method as it adapts to new tasks once it is trained."""
        return self


@dataclass(frozen=True)
class MetaLearner:
    """batch_norm: `transductive` normalises the query set by its own statistics, `inductive` by the support set's."""

    model: Model
    algorithm: Algorithm
    objective: Objective
    batch_norm: str = "transductive"

    def __post_init__(self):
        if self.batch_norm not in BATCH_NORM:
            raise ConfigError(
                "batch_norm", self.batch_norm, f"must be one of {', '.join(BATCH_NORM)}"
            )

    @property
    def test_variant(self) -> MetaLearner:
        """The same with its method as it adapts to new tasks once it is trained."""
        return replace(self, algorithm=self.algorithm.test_variant)

    def with_episode_noise(self, episode: Episode) -> MetaLearner:
        """The same while training: a model that draws random numbers (DropBlock) draws those of the episode."""
        with_noise = getattr(self.model, "with_noise", None)
        return (
            self
            if with_noise is None or episode.noise is None
            else replace(self, model=with_noise(episode.noise))
        )

    def check_episode(self, episode: Episode) -> None:
        """Raises ConfigError where the method's head has not one output a class of the episode, or where batch norm would take its
        statistics from what fills up tasks of unequal sizes."""
        if episode.support_size is not None and self.model.norm_names:
            said = "must be a model without batch norm, since tasks differ in size and what fills them up must not count"
            raise ConfigError("model", type(self.model).__name__, said)
        if (
            self.objective.kind == "classification"
            and not self.algorithm.any_ways
            and self.algorithm.labels == "episode"
        ):
            ways, outputs = episode.classes, self.model.outputs
            if ways != outputs:
                said = f"must be {outputs}, since the head has one output per class"
                raise ConfigError("ways", ways, said)

    def init(self, seed: int) -> Params:
        """The meta-parameters at iteration 0, without a task axis: a function of the seed, drawn on the CPU."""
        theta = self.model.init(random_numbers.generator(seed, "initial weights"))
        return self.algorithm.init(
            theta, self.model, random_numbers.generator(seed, "initial method")
        )

    def support_loss(self, theta: Params, episode: Episode) -> Tensor:
        """`(tasks,)`; theta carries the task axis."""
        return self.objective.loss(
            self.model(theta, episode.support_x), episode.support_y, episode.support_size
        )

    def query_outputs(
        self, theta: Params, episode: Episode, batch_norm: str | None = None
    ) -> Tensor:
        """The answers on the query set `(tasks, n, outputs)`; theta carries the task axis."""
        return self.algorithm.query_outputs(self, theta, episode, batch_norm or self.batch_norm)

    def apply_to_query(
        self, function: Function, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        """`function` of the query set, normalised as `batch_norm` says."""
        if batch_norm == "transductive":
            return function(theta, episode.query_x)
        return self.apply_to_both(function, theta, episode, batch_norm)[1]

    def apply_to_both(
        self, function: Function, theta: Params, episode: Episode, batch_norm: str
    ) -> tuple[Tensor, Tensor]:
        """`function` of the support set and of the query set."""
        if batch_norm == "transductive":
            return function(theta, episode.support_x), function(theta, episode.query_x)
        shots = episode.support_x.shape[1]
        both = function(theta, torch.cat([episode.support_x, episode.query_x], 1), reference=shots)
        return both[:, :shots], both[:, shots:]
