"""The algorithm `ridge`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.learner import Algorithm

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["RidgeRegression"]


@dataclass(frozen=True)
class RidgeRegression(Algorithm):
    """Luca Bertinetto, Joao Henriques, Philip Torr, Andrea Vedaldi: Meta-learning with differentiable closed-form solvers (R2-D2), ICLR 2019.
    https://arxiv.org/abs/1805.08136

        W = X^T (X X^T + lambda I)^-1 Y          X: support features, Y: one-hot labels (equation 6, by Woodbury's identity)
        outputs = scale * X_query W + shift      lambda, scale and shift are learned (section 3.2)

    Differs from the paper: a column of ones in X in the place of a separate bias; batch norm takes the statistics of the images in hand, at
    test too (`train.batch_norm`; there: running averages); the network is the one that params name.

    Args:
        regularization: lambda at the start of training.
        scale: Factor of the outputs at the start of training.
    """

    regularization: PositiveFloat = 1.0
    scale: PositiveFloat = 10.0

    any_ways: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        start = {"log_lambda": math.log(self.regularization), "scale": self.scale, "shift": 0.0}
        return theta | {f"ridge.{name}": torch.full((1,), value) for name, value in start.items()}

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        weight, bias = self.solve_head(theta, support, episode)
        return query @ weight + bias

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        x = F.pad(support, (0, 1), value=1.0)
        y = F.one_hot(episode.support_y, episode.classes).to(x.dtype)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        # solve_ex, since solve waits for a GPU to see whether the matrix is singular; with lambda > 0 it is not.
        w = (
            x.mT
            @ torch.linalg.solve_ex(
                x @ x.mT + theta["ridge.log_lambda"].exp()[..., None] * identity, y
            )[0]
        )
        w = theta["ridge.scale"][..., None] * w
        return w[:, :-1], w[:, -1:] + theta["ridge.shift"][..., None]
