"""The one inner loop: from shared parameters to each task's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from episodic.core.model import Params
from episodic.engine.inner_optimizers import InnerOptimizer


def _no_steps(*_: Any) -> Any:
    raise AssertionError("a method without an inner loop takes no inner step")


class InnerLoop(NamedTuple):
    """How each task adapts.

    theta: where it starts, `(tasks, *shape)`: the model's parameters, and whatever else a method carries from step to step
    loss: (theta, step) -> each task's loss on its support set `(tasks,)`
    update: how a step moves theta
    second_order: whether the meta-gradient sees through the inner gradient, or takes it as given (first order)
    adapted_names: the names whose gradient `update` needs (None: all)
    """

    theta: Params
    loss: Callable[[Params, int], Tensor] = _no_steps
    update: InnerOptimizer = _no_steps
    second_order: bool = True
    adapted_names: tuple[str, ...] | None = None


class Step(NamedTuple):
    """One inner step: `after` is a function of `before`, whose tensors are leaves of its graph."""

    before: Params
    after: Params


def trajectory(inner: InnerLoop, steps: int) -> Iterator[Step]:
    """Yields the steps theta_0 -> theta_1, theta_1 -> theta_2, ...

    The sum over tasks is differentiated: a task's parameters touch its own loss alone. Each step is a graph of its own, so that
    whoever needs none can let it go.
    """
    theta = inner.theta
    for step in range(steps):
        before = detached(theta)
        loss = inner.loss(before, step)
        moved = (
            before
            if inner.adapted_names is None
            else {name: before[name] for name in inner.adapted_names}
        )
        gradient = grad(loss.sum(), moved, create_graph=inner.second_order)
        theta = inner.update(before, gradient, step, loss)
        yield Step(before, theta)


def grad(loss: Tensor, theta: Params, create_graph: bool = False) -> Params:
    """The gradient of `loss` with respect to theta; 0 for a parameter that it does not depend on."""
    values = list(theta.values())
    gradients = torch.autograd.grad(
        loss, values, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(theta, gradients, strict=True))


def expand(theta: Params, tasks: int) -> Params:
    """`(*shape)` -> `(tasks, *shape)`: a view, no copy."""
    return {name: _Expand.apply(p, tasks) for name, p in theta.items()}


class _Expand(torch.autograd.Function):
    """p.expand, whose gradient, a sum over tasks, is taken in the order of memory: torch's own is 13 times slower for kernels with
    their channels last."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, tasks: int) -> Tensor:
        return p.expand(tasks, *p.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        axes = sorted(range(1, gradient.dim()), key=gradient.stride, reverse=True)
        total = gradient.permute(0, *axes).sum(0)
        return total.permute([axes.index(axis) for axis in range(1, gradient.dim())]), None


def detached(theta: Params) -> Params:
    """The same values as new leaves that take gradients: cuts the graph between one inner step and the next."""
    return {name: p.detach().requires_grad_() for name, p in theta.items()}
