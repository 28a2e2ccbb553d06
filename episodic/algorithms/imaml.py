"""The algorithm `imaml`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, detached, expand, grad
from episodic.engine.learner import Algorithm

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["IMAML"]


@dataclass(frozen=True)
class IMAML(Algorithm):
    """Aravind Rajeswaran, Chelsea Finn, Sham Kakade, Sergey Levine: Meta-Learning with Implicit Gradients, NeurIPS 2019.
    https://arxiv.org/abs/1909.04630

        theta_i ~ argmin_phi L_i(phi; support_i) + lambda / 2 ||phi - theta||^2      by gradient steps (equation 4)
        (I + 1/lambda H_i) g_i = grad L_i(theta_i; query_i)                          g_i by conjugate gradient (equation 7)
        theta <- Adam(theta, mean_i g_i)

    H_i is the Hessian of the support loss at theta_i. The steps need not be differentiated, so that many can be taken. Away from a minimum
    I + H / lambda need not be positive definite: `damping` is added to lambda there, as the authors' code does.

    Differs from the paper: plain gradient descent in the inner loop (there: also Hessian-free); a task whose system turns out not to be
    positive definite keeps the solution it has come to; the conjugate gradient starts at the right-hand side (one product more).

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        regularization: lambda, the strength of the pull towards theta.
        cg_steps: Steps of the conjugate gradient.
        damping: Added to lambda in the system that the conjugate gradient solves.
    """

    inner_lr: PositiveFloat = 0.1
    inner_steps: Steps = 16
    regularization: PositiveFloat = 2.0
    cg_steps: Steps = 5
    damping: Annotated[float, Ge(0), Le(1e6)] = 0.0

    backprop_through_inner: ClassVar[bool] = False

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        start = {name: p.detach() for name, p in expand(meta, episode.tasks).items()}

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            return {
                n: p - self.inner_lr * (gradient[n] + self.regularization * (p - start[n]))
                for n, p in theta.items()
            }

        theta = expand(meta, episode.tasks)
        return InnerLoop(
            theta,
            lambda theta, step: learner.support_loss(theta, episode),
            update,
            second_order=False,
        )

    def outer_gradient(self, inner: InnerLoop, last: Params, v: Params, share: float) -> Params:
        """v -> (I + H / (lambda + damping))^-1 v, each task's own system by conjugate gradient."""
        theta = detached(last)
        gradient = grad(inner.loss(theta, self.inner_steps).sum(), theta, create_graph=True)
        seen = [name for name, g in gradient.items() if g.requires_grad]

        def times(u: Params) -> Params:
            found = torch.autograd.grad(
                [gradient[n] for n in seen],
                list(theta.values()),
                [u[n] for n in seen],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return {
                name: u[name] + h / (self.regularization + self.damping)
                for (name, h) in zip(theta, found, strict=True)
            }

        return conjugate_gradient(times, v, self.cg_steps)


def conjugate_gradient(times: Callable[[Params], Params], b: Params, steps: int) -> Params:
    """Solves times(x) = b for each task, `times` linear and symmetric (Hestenes, Stiefel 1952), from x = b."""

    def dot(a: Params, b: Params) -> Tensor:
        return torch.stack([(a[name] * b[name]).flatten(1).sum(1) for name in a]).sum(0)

    def add(a: Params, factor: Tensor, b: Params) -> Params:
        return {name: p + factor.view(-1, *[1] * (p.dim() - 1)) * b[name] for name, p in a.items()}

    x, one = b, torch.ones_like(dot(b, b))
    residual = add(b, -one, times(x))
    direction, square = residual, dot(residual, residual)
    tiny = torch.finfo(square.dtype).tiny
    going = torch.ones_like(square, dtype=torch.bool)
    for _ in range(steps):
        image = times(direction)
        curvature = dot(direction, image)
        # A task stops where it is solved exactly, and where its system is not positive definite.
        going = going & (curvature > tiny)
        size = torch.where(going, square / curvature.clamp_min(tiny), 0)
        x, residual = add(x, size, direction), add(residual, -size, image)
        before, square = square, dot(residual, residual)
        direction = add(residual, torch.where(going, square / before.clamp_min(tiny), 0), direction)
    return x
