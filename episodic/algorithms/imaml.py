"""iMAML: MAML with an implicit meta-gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from episodic.core.config import NonNegativeFloat, PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, detached, expand, grad
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["IMAML"]


@dataclass(frozen=True)
class IMAML(Algorithm):
    """MAML with an implicit meta-gradient (iMAML).

        theta_i ~ argmin_phi L_i(phi; support_i) + lambda / 2 ||phi - theta||^2     (equation 4)
        (I + H_i / lambda) g_i = grad L_i(theta_i; query_i)                         (equation 7)
        theta <- Adam(theta, mean_i g_i)

    theta_i is computed by gradient descent and g_i by the conjugate gradient method. H_i is the
    Hessian of the support loss at theta_i. Inner steps are not backpropagated through, so their
    number is not limited by memory. If the inner loop does not converge, I + H / lambda may not be
    positive definite. As in the authors' code, `damping` can then be added to lambda.

    How implicit the gradient is depends on the inner loop. With batch norm and ReLU it ends at no
    minimum, and I + H / lambda is often not positive definite. A damping of 50 removes the Hessian:
    the cosine of g_i with the first-order gradient is then above .999, and only the pull towards
    theta is left of the method. With `conv4`, the default inner loop and a damping of 10, g_i has a
    cosine of .87 with the gradient through all inner steps, the first-order gradient .84. The
    gradient is implicit without batch norm: with `mlp`, inner_steps 50, regularization 0.5 and no
    damping, g_i has .99, the first-order gradient .96. These are means over 8 tasks of glyphs at
    the initialization (tests/episodic/algorithms/test_implicit_gradient.py prints them).

    Differs from the paper: the inner loop is gradient descent (paper: also Hessian-free). If a
    system is not positive definite, the conjugate gradient method stops and keeps its current
    solution. It starts at the right-hand side, which requires one more Hessian-vector product.
    The released code differs from the paper, and from this class. Its inner loop takes all steps
    without the regularizer, and then one step with the regularizer alone, whose weight is 0 at test
    time. Its system is 2 I + H / (lambda + 10). For lambda = 2 the solution has the direction of
    `damping: 22`. Its outer Adam has an epsilon of 1e-3 (here 1e-8).

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        regularization: lambda, the weight of the proximal term.
        cg_steps: Steps of the conjugate gradient method.
        damping: Constant added to lambda in the conjugate-gradient system.

    Source: Aravind Rajeswaran, Chelsea Finn, Sham Kakade, Sergey Levine: Meta-Learning with
    Implicit Gradients, NeurIPS 2019. https://arxiv.org/abs/1909.04630
    """

    inner_lr: PositiveFloat = 0.1
    inner_steps: Steps = 16
    regularization: PositiveFloat = 2.0
    cg_steps: Steps = 5
    damping: NonNegativeFloat = 0.0

    backprop_through_inner: ClassVar[bool] = False

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        start = {name: p.detach() for name, p in expand(meta, episode.tasks).items()}

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            return {
                name: p - self.inner_lr * (gradient[name] + self.regularization * (p - start[name]))
                for name, p in theta.items()
            }

        theta = expand(meta, episode.tasks)
        return InnerLoop(
            theta,
            lambda theta, step: learner.support_loss(theta, episode),
            update,
            second_order=False,
        )

    def outer_gradient(
        self, inner: InnerLoop, adapted: Params, v: Params, task_weight: float
    ) -> Params:
        """Solve (I + H / (lambda + damping)) g = v for each task."""
        theta = detached(adapted)
        gradient = grad(inner.loss(theta, self.inner_steps).sum(), theta, create_graph=True)
        differentiable = [name for name, g in gradient.items() if g.requires_grad]

        def multiply(u: Params) -> Params:
            products = torch.autograd.grad(
                [gradient[name] for name in differentiable],
                list(theta.values()),
                [u[name] for name in differentiable],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return {
                name: u[name] + h / (self.regularization + self.damping)
                for (name, h) in zip(theta, products, strict=True)
            }

        return conjugate_gradient(multiply, v, self.cg_steps)


def conjugate_gradient(multiply: Callable[[Params], Params], b: Params, steps: int) -> Params:
    """Solve A x = b for each task, starting from x = b.

    Args:
        multiply: Computes A x for a symmetric matrix A.
        b: Right-hand sides `(tasks, *shape)`.
        steps: Number of steps.

    Source: Hestenes, Stiefel: Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    """

    def dot(a: Params, b: Params) -> Tensor:
        return torch.stack([(a[name] * b[name]).flatten(1).sum(1) for name in a]).sum(0)

    def add(a: Params, factor: Tensor, b: Params) -> Params:
        return {name: p + factor.view(-1, *[1] * (p.dim() - 1)) * b[name] for name, p in a.items()}

    x, ones = b, torch.ones_like(dot(b, b))
    residual = add(b, -ones, multiply(x))
    direction, square = residual, dot(residual, residual)
    tiny = torch.finfo(square.dtype).tiny
    active = torch.ones_like(square, dtype=torch.bool)
    for _ in range(steps):
        image = multiply(direction)
        curvature = dot(direction, image)
        # Tasks stop if they are solved exactly or their system is not positive definite.
        active = active & (curvature > tiny)
        size = torch.where(active, square / curvature.clamp_min(tiny), 0)
        x, residual = add(x, size, direction), add(residual, -size, image)
        before, square = square, dot(residual, residual)
        ratio = torch.where(active, square / before.clamp_min(tiny), 0)
        direction = add(residual, ratio, direction)
    return x
