"""Optimizers of the inner loop.

All operations are elementwise, so they apply with any task axis.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from episodic.core.model import Params

__all__ = ["SQUARE", "InnerOptimizer", "adam", "sgd"]

InnerOptimizer = Callable[[Params, Params, int, Tensor], Params]
"""`optimizer(theta, gradient, step, loss)` returns theta after an inner step. The gradient contains
the adapted parameters (`InnerLoop.adapted_names`); the loss is per task, `(tasks,)`."""

SQUARE = "square."
"""Prefix of the names of Adam's running means of squared gradients in theta."""


def sgd(inner_lr: float) -> InnerOptimizer:
    """Gradient descent: theta - inner_lr * gradient.

    Source: MAML (Finn et al. 2017), equation 1.
    """
    return lambda theta, gradient, step, loss: (
        theta | {name: torch.add(theta[name], g, alpha=-inner_lr) for name, g in gradient.items()}
    )


def adam(lr: float, beta2: float = 0.999, eps: float = 1e-8) -> InnerOptimizer:
    """Adam without momentum (beta1 = 0).

    Theta contains `SQUARE + name` for each adapted parameter, initially 0.

    Args:
        lr: Learning rate.
        beta2: Decay of the running mean of squared gradients.
        eps: Constant added to the denominator.

    Source: Kingma, Ba: Adam, 2015, algorithm 1.
    """

    def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
        after = dict(theta)
        for name, g in gradient.items():
            square = after[SQUARE + name] = beta2 * theta[SQUARE + name] + (1 - beta2) * g.square()
            after[name] = theta[name] - lr * g / ((square / (1 - beta2 ** (step + 1))).sqrt() + eps)
        return after

    return update
