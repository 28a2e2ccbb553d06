"""The one inner loop: from shared parameters to each task's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from episodic.ops import Params
from episodic.rules import Rule


class Inner(NamedTuple):
    """How a method adapts: where theta starts `(tasks, *shape)`, the rule of a step, and whether the meta-gradient sees
    through the inner gradient (second order) or takes it as given (first order)."""

    theta: Params
    rule: Rule
    second_order: bool


def trajectory(loss: Callable[[Params], Tensor], inner: Inner, steps: int) -> Iterator[Params]:
    """Yields theta_0, theta_1, ..., theta_steps; `loss` gives each task's support loss `(tasks,)`.

    The sum over tasks is differentiated: a task's parameters touch its own loss alone.
    """
    theta = inner.theta
    yield theta
    for step in range(steps):
        gradients = torch.autograd.grad(loss(theta).sum(), list(theta.values()), create_graph=inner.second_order)
        gradient = dict(zip(theta, gradients, strict=True))
        theta = inner.rule(theta, gradient, step)
        yield theta


def expand(theta: Params, tasks: int) -> Params:
    """`(*shape)` -> `(tasks, *shape)`: a view, no copy."""
    return {name: p.expand(tasks, *p.shape) for name, p in theta.items()}


def detached(theta: Params) -> Params:
    """The same values as new leaves that take gradients: cuts the graph between one inner step and the next."""
    return {name: p.detach().requires_grad_() for name, p in theta.items()}
