"""How one inner step moves theta: functions `(theta, gradient, step) -> theta`, elementwise, so that any task axis will do."""

from __future__ import annotations

from collections.abc import Callable

import torch

from episodic.ops import Params

Rule = Callable[[Params, Params, int], Params]


def sgd(inner_lr: float) -> Rule:
    """theta - inner_lr * gradient (MAML, equation 1)."""
    return lambda theta, gradient, step: {name: torch.add(theta[name], gradient[name], alpha=-inner_lr) for name in theta}
