"""MetaOptNet: a support vector machine as the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core import float64
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import MetaLearner
from episodic.engine.leave_one_out import (
    MAX_REFITS,
    Choice,
    choose_regularization,
    class_weights,
    refitted_outputs,
)
from episodic.engine.linear_head import LinearHead

__all__ = ["MetaOptNet"]

ITERATIONS = 20
"""Number of steps of the interior-point method."""

BARRIER_DECAY, MIN_BARRIER = 0.15, 1e-13
"""Factor by which the barrier decreases per step, and its minimum."""

MAX_STEP_FRACTION = 0.99
"""Maximum step size, as a fraction of the distance to the boundary."""


@dataclass(frozen=True)
class MetaOptNet(LinearHead):
    """A support vector machine as the head (MetaOptNet-SVM).

    The head is the multi-class support vector machine of Crammer and Singer in its dual form
    (equation 7). X are the features of the support set, and K = X X^T:

        min_alpha  1/2 tr(alpha^T (K + I) alpha) - sum_i alpha_{i, y_i}
        subject to alpha_{i, k} <= C [k = y_i],  sum_k alpha_{i, k} = 0
        outputs = scale * X_query X^T alpha

    The scale is learned. As in the authors' code, I is added to K to make the minimum unique. The
    problem is solved by an interior-point method in float64 and differentiated by the implicit
    function theorem (section 3.3).

    Differs from the paper: batch norm uses the statistics of the current batch, also at test time
    (`train.batch_norm`; paper: running averages). The scale starts at 5 (authors' code: 1).
    Regularization, augmentation and model are set in params.yaml.

    With `leave_one_out`, C and the scale are chosen per task by the leave-one-out cross-entropy of
    the support set, if every class has two or more examples; of more than 25 examples, 25 are left
    out. Classes have the same weight, whatever their numbers of examples: C is multiplied and I
    divided by the weight of an example. Use this on features that were not meta-trained: each task
    then solves seven problems per example that is left out.

    Args:
        c: SVM regularization parameter C.
        scale: Initial scale of the logits.
        leave_one_out: Whether C and the scale are chosen per task.

    Source: Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran, Stefano Soatto: Meta-Learning with
    Differentiable Convex Optimization, CVPR 2019. https://arxiv.org/abs/1904.03758
    """

    c: PositiveFloat = 0.1
    scale: PositiveFloat = 5.0
    leave_one_out: bool = False

    @property
    def masks_padding(self) -> bool:
        return not self.leave_one_out

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        return theta | {"svm.scale": torch.full((1,), self.scale)}

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand(meta, episode.tasks)
        if self.leave_one_out:
            scale = theta["svm.scale"]
            choice = choose_regularization(
                learner.model.features(theta, episode.support_x),
                episode,
                partial(refitted_outputs, fit=_fit, balanced=True),
                Choice(torch.full_like(scale, 1 / self.c), scale),
                left_out=MAX_REFITS,
            )
            theta |= {"svm.c": 1 / choice.regularization, "svm.scale": choice.scale}
        return InnerLoop(theta)

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        y = float64.to_float64(F.one_hot(episode.support_y, episode.classes))
        c: float | Tensor = self.c
        weights = None
        if self.leave_one_out:
            weights = class_weights(y)
            c = float64.to_float64(theta["svm.c"][..., None]) * weights[:, None]
        alpha = crammer_singer(
            float64.to_float64(support @ support.mT),
            y,
            c,
            _free_variables(episode),
            weights,
        ).to(support)
        weight = theta["svm.scale"][..., None] * (support.mT @ alpha)
        return weight, torch.zeros_like(weight[:, :1])


def _fit(
    kernel: Tensor, y: Tensor, regularization: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve for alpha and a bias of 0, with C = 1 / regularization."""
    alpha = crammer_singer(kernel, y, 1 / regularization[:, None], weights=weights)
    return alpha, torch.zeros_like(y[:, :1])


def _free_variables(episode: Episode) -> Tensor | None:
    """Return the argument `is_free` of `crammer_singer`."""
    mask, ways = episode.support_mask, episode.task_ways
    if mask is None:
        return None
    classes = torch.arange(episode.classes, device=mask.device)
    has_class = classes < (episode.classes if ways is None else ways[:, None, None])
    return mask[..., None] & has_class


def crammer_singer(
    kernel: Tensor,
    y: Tensor,
    c: float | Tensor,
    is_free: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Solve the dual problem of the support vector machine, differentiable with respect to K.

    Args:
        kernel: K, float64 `(tasks, n, n)`.
        y: One-hot labels, float64 `(tasks, n, ways)`.
        c: The bound C, or that of each example, float64 `(tasks, 1, n)` or `(tasks, 1, 1)`.
        is_free: Which values of alpha are variables, bool `(tasks, n, ways)`; None: all. Those of
            padding and of classes that a task does not have are 0.
        weights: Divisors of I, `(tasks, n)`, if examples have weights, which `c` contains already.

    Returns:
        The minimizer alpha `(tasks, n, ways)`.
    """
    tasks, n, ways = y.shape
    y = y.mT  # from here on `(tasks, ways, n)`, one row per class
    ridge = torch.ones_like(y[:, :1]) if weights is None else 1 / weights[:, None]
    classes: int | Tensor = ways
    if is_free is not None:
        is_free = is_free.mT
        has_class, is_example = is_free.any(2), is_free.any(1)
        classes = has_class.sum(1)[:, None, None]
        kernel = kernel * (is_example[:, None] & is_example[..., None])

    def fixed(values: Tensor, value: float = 0.0) -> Tensor:
        """Replace the values at entries that are not variables."""
        return values if is_free is None else torch.where(is_free, values, value)

    def mean(values: Tensor) -> Tensor:
        if is_free is None:
            return values.mean((1, 2), keepdim=True)
        return fixed(values).sum((1, 2), keepdim=True) / is_free.sum((1, 2), keepdim=True)

    y = fixed(y)
    bound = c * y

    def slope(alpha: Tensor) -> Tensor:
        """Compute the gradient of the objective."""
        return alpha @ kernel + alpha * ridge - y

    def newton_step(gradient: Tensor, barrier: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Solve [[H, A^T], [A, 0]] (step, nu) = (-gradient, -residual).

        H is the Hessian of the objective + diag(barrier), and A the sum over classes. H has one
        block `(n, n)` per class, so (sum of the inverse blocks) nu = residual - A H^-1 gradient.
        """
        gradient = fixed(gradient)
        inverse, _ = torch.linalg.inv_ex(
            kernel.detach()[:, None] + torch.diag_embed(ridge) + torch.diag_embed(fixed(barrier))
        )
        if is_free is not None:
            inverse = inverse * has_class[..., None, None]
        free = (inverse @ gradient[..., None])[..., 0]
        nu, _ = torch.linalg.solve_ex(inverse.sum(1), (residual - free.sum(1))[..., None])
        return -free - (inverse @ nu[:, None])[..., 0], nu[..., 0]

    with torch.no_grad():
        alpha = fixed(c / 2 * (y - (1 - y) / (classes - 1)))  # strictly feasible
        slack = fixed(bound - alpha, 1)
        weight = 1 / slack  # multipliers of the bounds, for a barrier of 1
        for _ in range(ITERATIONS):
            target = BARRIER_DECAY * mean(weight * slack)
            target = target.clamp_min(MIN_BARRIER)
            step, _ = newton_step(slope(alpha) + target / slack, weight / slack, alpha.sum(1))
            change = fixed((target + weight * step) / slack - weight)
            relative = torch.cat([step / slack, -change / weight], 1).amax((1, 2), keepdim=True)
            fraction = MAX_STEP_FRACTION / relative.clamp_min(MAX_STEP_FRACTION)
            alpha, weight = alpha + fraction * step, weight + fraction * change
            slack = fixed(bound - alpha, 1)
        barrier, zeros = weight / slack, alpha.new_zeros(tasks, n)
        _, nu = newton_step(slope(alpha) + weight, barrier, zeros)
    # One more Newton step leaves alpha unchanged and has the derivative of the minimizer.
    step, _ = newton_step(slope(alpha) + weight + nu[:, None], barrier, zeros)
    return (alpha + step).mT
