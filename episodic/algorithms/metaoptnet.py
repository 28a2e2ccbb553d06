"""The algorithm `metaoptnet`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core import float64
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.learner import Algorithm

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["MetaOptNet"]

ITERATIONS, SHRINK, TO_THE_WALL, LEAST = 20, 0.15, 0.99, 1e-13
"""Of the interior-point method: steps, factor of the barrier in each, how much of the way to the boundary one goes at most, and the
barrier at the end."""


@dataclass(frozen=True)
class MetaOptNet(Algorithm):
    """Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran, Stefano Soatto: Meta-Learning with Differentiable Convex Optimization
    (MetaOptNet-SVM), CVPR 2019. https://arxiv.org/abs/1904.03758

    The head is the multi-class support vector machine of Crammer and Singer, in its dual (equation 7): with K = X X^T of support features,

        min_alpha  1/2 tr(alpha^T (K + I) alpha) - sum_i alpha_{i, y_i},     alpha_{i, k} <= C [k = y_i],     sum_k alpha_{i, k} = 0
        outputs = scale * X_query X^T alpha                                  scale is learned

    I beside K is that of the authors' code, which makes the minimum unique. It is found by an interior-point method in float64; the
    gradient is that of the minimum itself, by the implicit function theorem (section 3.3).

    Differs from the paper: batch norm takes the statistics of the images in hand, at test too (`train.batch_norm`; there: running averages);
    regularization, augmentation and network are what params name.

    Args:
        c: The bound C: how much weight one support example may have.
        scale: Factor of the outputs at the start of training.
    """

    c: PositiveFloat = 0.1
    scale: PositiveFloat = 5.0

    any_ways: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        return theta | {"svm.scale": torch.full((1,), self.scale)}

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        weight, bias = self.solve_head(theta, support, episode)
        return query @ weight + bias

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        y = F.one_hot(episode.support_y, episode.classes)
        alpha = crammer_singer(
            float64.to_float64(support @ support.mT), float64.to_float64(y), self.c
        ).to(support)
        weight = theta["svm.scale"][..., None] * (support.mT @ alpha)
        return weight, torch.zeros_like(weight[:, :1])


def crammer_singer(kernel: Tensor, y: Tensor, c: float) -> Tensor:
    """The minimum alpha `(tasks, n, ways)`, differentiable by kernel `(tasks, n, n)`; y one-hot `(tasks, n, ways)`; float64."""
    tasks, n, ways = y.shape
    y = y.mT  # from here on `(tasks, ways, n)`, a row a class
    identity, bound = torch.eye(n, dtype=y.dtype, device=y.device), c * y

    def slope(alpha: Tensor) -> Tensor:
        """The gradient of the objective."""
        return alpha @ kernel + alpha - y

    def newton(alpha_slope: Tensor, barrier: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """(d alpha, nu) of [[H, A^T], [A, 0]] (d alpha, nu) = (-alpha_slope, -off), H the objective's Hessian + diag(barrier), A the sum
        over classes. H is a block `(n, n)` a class, so that nu solves (sum of the blocks' inverses) nu = off - A H^-1 alpha_slope."""
        inverse, _ = torch.linalg.inv_ex(
            kernel.detach()[:, None] + identity + torch.diag_embed(barrier)
        )
        free = (inverse @ alpha_slope[..., None])[..., 0]
        nu, _ = torch.linalg.solve_ex(inverse.sum(1), (off - free.sum(1))[..., None])
        return -free - (inverse @ nu[:, None])[..., 0], nu[..., 0]

    with torch.no_grad():
        alpha = c / 2 * (y - (1 - y) / (ways - 1))  # strictly inside, and its columns sum to 0
        slack = bound - alpha
        weight = 1 / slack  # of the bounds: barrier 1
        for _ in range(ITERATIONS):
            target = (SHRINK * (weight * slack).mean((1, 2), keepdim=True)).clamp_min(LEAST)
            step, _ = newton(slope(alpha) + target / slack, weight / slack, alpha.sum(1))
            change = (target + weight * step) / slack - weight
            far = (
                torch.cat([step / slack, -change / weight], 1)
                .amax((1, 2), keepdim=True)
                .clamp_min(TO_THE_WALL)
            )
            alpha, weight = alpha + TO_THE_WALL / far * step, weight + TO_THE_WALL / far * change
            slack = bound - alpha
        barrier, none = weight / slack, alpha.new_zeros(tasks, n)
        _, nu = newton(slope(alpha) + weight, barrier, none)
    # One more step of Newton: in value nothing, in its derivative that of the minimum.
    step, _ = newton(slope(alpha) + weight + nu[:, None], barrier, none)
    return (alpha + step).mT
