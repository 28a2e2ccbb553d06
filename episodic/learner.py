"""A meta-learner: a model, a method that adapts it, and what it is scored by."""

from __future__ import annotations

from dataclasses import dataclass

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

    def init(self, seed: int) -> Params:
        """The meta-parameters at iteration 0, without a task axis: a function of the seed, drawn on the CPU."""
        return self.algorithm.init(self.model.init(counter.generator(seed, "initial weights")))

    def support_loss(self, theta: Params, episode: Episode) -> Tensor:
        """`(tasks,)`; theta carries the task axis."""
        return self.objective.loss(self.model(theta, episode.support_x), episode.support_y)

    def query_outputs(self, theta: Params, episode: Episode, batch_norm: str | None = None) -> Tensor:
        """The model's answers on the query set `(tasks, n, outputs)`; theta carries the task axis."""
        if (batch_norm or self.batch_norm) == "transductive":
            return self.model(theta, episode.query_x)
        shots = episode.support_x.shape[1]
        return self.model(theta, torch.cat([episode.support_x, episode.query_x], 1), reference=shots)[:, shots:]
