"""How one inner step moves theta: functions `(theta, gradient, step, loss) -> theta`, elementwise, so that any task axis will do.

gradient holds the names that the method moves (`InnerLoop.moved`), loss is each task's `(tasks,)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from episodic.core.model import Params

InnerOptimizer = Callable[[Params, Params, int, Tensor], Params]


def sgd(inner_lr: float) -> InnerOptimizer:
    """theta - inner_lr * gradient (MAML, equation 1)."""
    return lambda theta, gradient, step, loss: (
        theta | {name: torch.add(theta[name], g, alpha=-inner_lr) for name, g in gradient.items()}
    )


SQUARE = "square."
"""Before a parameter's name: Adam's running mean of squared gradients, which theta carries."""


def adam(lr: float, beta2: float = 0.999, eps: float = 1e-8) -> InnerOptimizer:
    """Adam without momentum (beta1 = 0; Kingma, Ba 2015, algorithm 1); theta holds `SQUARE + name` for each name that moves."""

    def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
        after = dict(theta)
        for name, g in gradient.items():
            square = after[SQUARE + name] = beta2 * theta[SQUARE + name] + (1 - beta2) * g.square()
            after[name] = theta[name] - lr * g / ((square / (1 - beta2 ** (step + 1))).sqrt() + eps)
        return after

    return update
