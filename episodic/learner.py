"""A meta-learner: a model, a method that adapts it, and what it is scored by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from episodic import counter
from episodic.algorithms import Algorithm
from episodic.config import ConfigError
from episodic.episode import Episode
from episodic.models import Model
from episodic.objective import Objective
from episodic.ops import Params

BATCH_NORM = ("transductive", "inductive")

Function = Callable[..., Tensor]
"""(theta, x, reference) -> `(tasks, n, ...)`: a model, or its features."""


@dataclass(frozen=True)
class MetaLearner:
    """batch_norm: `transductive` normalises the query set by its own statistics, `inductive` by the support set's."""

    model: Model
    algorithm: Algorithm
    objective: Objective
    batch_norm: str = "transductive"

    def __post_init__(self):
        if self.batch_norm not in BATCH_NORM:
            raise ConfigError("batch_norm", self.batch_norm, f"must be one of {', '.join(BATCH_NORM)}")

    @property
    def at_test(self) -> MetaLearner:
        """The same with its method as it adapts to new tasks once it is trained."""
        return replace(self, algorithm=self.algorithm.at_test)

    def noisy(self, episode: Episode) -> MetaLearner:
        """The same while training: a model that draws random numbers (DropBlock) draws those of the episode."""
        noisy = getattr(self.model, "noisy", None)
        return self if noisy is None or episode.noise is None else replace(self, model=noisy(episode.noise))

    def accept(self, episode: Episode) -> None:
        """Raises ConfigError where the method's head has not one output a class of the episode, or where batch norm would take its
        statistics from what fills up tasks of unequal sizes."""
        if episode.support_size is not None and self.model.norms:
            said = "must be a model without batch norm, since tasks differ in size and what fills them up must not count"
            raise ConfigError("model", type(self.model).__name__, said)
        if self.objective.kind == "classification" and not self.algorithm.any_ways and self.algorithm.labels == "episode":
            ways, outputs = episode.classes, self.model.outputs
            if ways != outputs:
                said = f"must be {outputs}: the head has an output a class, and the method does not make a new one"
                raise ConfigError("ways", ways, said)

    def init(self, seed: int) -> Params:
        """The meta-parameters at iteration 0, without a task axis: a function of the seed, drawn on the CPU."""
        theta = self.model.init(counter.generator(seed, "initial weights"))
        return self.algorithm.init(theta, self.model, counter.generator(seed, "initial method"))

    def support_loss(self, theta: Params, episode: Episode) -> Tensor:
        """`(tasks,)`; theta carries the task axis."""
        return self.objective.loss(self.model(theta, episode.support_x), episode.support_y, episode.support_size)

    def query_outputs(self, theta: Params, episode: Episode, batch_norm: str | None = None) -> Tensor:
        """The answers on the query set `(tasks, n, outputs)`; theta carries the task axis."""
        return self.algorithm.outputs(self, theta, episode, batch_norm or self.batch_norm)

    def on_query(self, function: Function, theta: Params, episode: Episode, batch_norm: str) -> Tensor:
        """`function` of the query set, normalised as `batch_norm` says."""
        if batch_norm == "transductive":
            return function(theta, episode.query_x)
        return self.on_both(function, theta, episode, batch_norm)[1]

    def on_both(self, function: Function, theta: Params, episode: Episode, batch_norm: str) -> tuple[Tensor, Tensor]:
        """`function` of the support set and of the query set."""
        if batch_norm == "transductive":
            return function(theta, episode.support_x), function(theta, episode.query_x)
        shots = episode.support_x.shape[1]
        both = function(theta, torch.cat([episode.support_x, episode.query_x], 1), reference=shots)
        return both[:, :shots], both[:, shots:]
