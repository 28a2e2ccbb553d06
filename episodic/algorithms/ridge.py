"""R2-D2: ridge regression as the head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import MetaLearner
from episodic.engine.leave_one_out import (
    Choice,
    choose_regularization,
    class_weights,
    ridge_outputs,
)
from episodic.engine.linear_head import LinearHead

__all__ = ["RidgeRegression"]


@dataclass(frozen=True)
class RidgeRegression(LinearHead):
    """Ridge regression as the head, solved in closed form (R2-D2).

        W = X^T (X X^T + lambda I)^-1 Y     (equation 6, by Woodbury's identity)
        outputs = scale * X_query W + shift

    X are the features of the support set, and Y its one-hot labels. lambda, scale and shift are
    learned (section 3.2).

    Differs from the paper: X has a column of ones for the bias, as in the authors' code. lambda is
    the same for every number n of support examples, as in equation 6. The authors' code divides X
    and Y by sqrt(n), so that its regularizer is n lambda: after 20-way training, a quarter of it
    remains in 5-way tests. Its lambda is 50 and not learned by default. Support and query set are
    normalized separately, by the statistics of the current batch, also at test time
    (`train.batch_norm`; authors' code: in one batch in training, by running averages at test time).
    The model is set in params.yaml.

    With `leave_one_out`, lambda and the scale are not the learned ones. They are chosen per task by
    the leave-one-out cross-entropy of the support set, if every class has two or more examples.
    Classes have the same weight, whatever their numbers of examples. Use this on features that were
    not meta-trained.

    Args:
        regularization: Initial value of lambda.
        scale: Initial scale of the logits.
        leave_one_out: Whether lambda and the scale are chosen per task.

    Source: Luca Bertinetto, Joao Henriques, Philip Torr, Andrea Vedaldi: Meta-learning with
    differentiable closed-form solvers, ICLR 2019. https://arxiv.org/abs/1805.08136
    """

    regularization: PositiveFloat = 1.0
    scale: PositiveFloat = 10.0
    leave_one_out: bool = False

    @property
    def masks_padding(self) -> bool:
        return not self.leave_one_out

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        start = {"log_lambda": math.log(self.regularization), "scale": self.scale, "shift": 0.0}
        return theta | {f"ridge.{name}": torch.full((1,), value) for name, value in start.items()}

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand(meta, episode.tasks)
        if self.leave_one_out:
            choice = choose_regularization(
                _with_ones(learner.model.features(theta, episode.support_x)),
                episode,
                partial(ridge_outputs, balanced=True),
                Choice(theta["ridge.log_lambda"].exp(), theta["ridge.scale"]),
            )
            theta |= {
                "ridge.log_lambda": choice.regularization.log(),
                "ridge.scale": choice.scale,
            }
        return InnerLoop(theta)

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        x = _with_ones(support)
        y = F.one_hot(episode.support_y, episode.classes).to(x.dtype)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        penalty = theta["ridge.log_lambda"].exp()[..., None] * identity
        if self.leave_one_out:
            penalty = penalty / class_weights(y)[..., None]
        x, y = episode.mask_padding(x), episode.mask_padding(y)
        kernel = x @ x.mT + penalty
        # The matrix is not singular, because lambda > 0. solve would check this, which synchronizes
        # with a GPU.
        w = theta["ridge.scale"][..., None] * (x.mT @ torch.linalg.solve_ex(kernel, y)[0])
        return w[:, :-1], w[:, -1:] + theta["ridge.shift"][..., None]


def _with_ones(features: Tensor) -> Tensor:
    """Append a column of ones to features `(tasks, n, width)`."""
    return F.pad(features, (0, 1), value=1.0)
