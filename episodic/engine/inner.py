"""The inner loop: from shared parameters to the adapted parameters of each task."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from episodic.core.model import Params
from episodic.engine.inner_optimizers import InnerOptimizer

__all__ = [
    "InnerLoop",
    "Step",
    "adapted_parameters",
    "detached",
    "expand",
    "grad",
    "graph_free_steps",
    "trajectory",
]


def _no_steps(*_: Any) -> Any:
    raise AssertionError("this algorithm has no inner loop and takes no inner steps")


class InnerLoop(NamedTuple):
    """The inner loop of a batch of tasks.

    Args:
        theta: Initial values `(tasks, *shape)`: the parameters of the model, and any further state
            that the algorithm carries from step to step.
        loss: `loss(theta, step)`: the support loss of each task `(tasks,)`.
        update: The inner optimizer.
        second_order: Whether the meta-gradient differentiates through the inner gradient.
        adapted_names: Names of the parameters whose gradient `update` needs; None for all.
    """

    theta: Params
    loss: Callable[[Params, int], Tensor] = _no_steps
    update: InnerOptimizer = _no_steps
    second_order: bool = True
    adapted_names: tuple[str, ...] | None = None


class Step(NamedTuple):
    """One inner step.

    Args:
        before: Parameters before the step, the leaves of its graph.
        after: Parameters after the step, a function of `before`.
    """

    before: Params
    after: Params


def trajectory(inner: InnerLoop, steps: int) -> Iterator[Step]:
    """Yield the inner steps theta_0 -> theta_1, theta_1 -> theta_2, ...

    The sum of the losses of all tasks is differentiated, because the parameters of a task affect
    only the loss of that task. Each step has a separate graph, which the caller can release.

    Args:
        inner: The inner loop.
        steps: Number of inner steps.
    """
    theta = inner.theta
    for step in range(steps):
        before = detached(theta)
        loss = inner.loss(before, step)
        adapted = (
            before
            if inner.adapted_names is None
            else {name: before[name] for name in inner.adapted_names}
        )
        gradient = grad(loss.sum(), adapted, create_graph=inner.second_order)
        theta = inner.update(before, gradient, step, loss)
        yield Step(before, theta)


def graph_free_steps(inner: InnerLoop, steps: int) -> Iterator[Params]:
    """Yield the parameters before the first and after each inner step, without a graph.

    Args:
        inner: The inner loop.
        steps: Number of inner steps.
    """
    inner = inner._replace(theta=detached(inner.theta), second_order=False)
    yield inner.theta
    for step in trajectory(inner, steps):
        theta = detached(step.after)
        del step  # so its graph is released before the next step
        yield theta


def adapted_parameters(inner: InnerLoop, steps: int) -> Params:
    """Return the parameters after the last inner step, without a graph.

    The arguments are those of `graph_free_steps`. Memory does not depend on the number of steps.
    """
    return deque(graph_free_steps(inner, steps), maxlen=1).pop()


def grad(loss: Tensor, theta: Params, create_graph: bool = False) -> Params:
    """Differentiate a loss with respect to theta.

    Args:
        loss: The loss `()`.
        theta: Leaves of the graph of `loss`.
        create_graph: Whether the gradient itself is differentiable.

    Returns:
        The gradient, with zeros for parameters that the loss does not depend on.
    """
    values = list(theta.values())
    gradients = torch.autograd.grad(
        loss, values, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(theta, gradients, strict=True))


def expand(theta: Params, tasks: int) -> Params:
    """Add a task axis without a copy: `(*shape)` -> `(tasks, *shape)`."""
    return {name: _Expand.apply(p, tasks) for name, p in theta.items()}


class _Expand(torch.autograd.Function):
    """`Tensor.expand` with a faster gradient.

    The gradient, a sum over tasks, is computed in memory order. For channels-last kernels torch's
    implementation is 13 times slower.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, tasks: int) -> Tensor:
        return p.expand(tasks, *p.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        axes = sorted(range(1, gradient.dim()), key=gradient.stride, reverse=True)
        total = gradient.permute(0, *axes).sum(0)
        return total.permute([axes.index(axis) for axis in range(1, gradient.dim())]), None


def detached(theta: Params) -> Params:
    """Detach theta into new leaves that require gradients, sharing its memory."""
    return {name: p.detach().requires_grad_() for name, p in theta.items()}
