"""A training iteration as one CUDA graph.

A GPU then waits neither for Python nor for a thousand kernel launches. The number of the iteration
lives on the GPU, where the graph itself increments it. Learning rate and episodes follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["WARM_UP_CALLS", "Update", "capture_iteration", "run_iteration"]

WARM_UP_CALLS = 3
"""Calls before the capture, in which libraries choose kernels and allocate memory."""

Update = Callable[[Tensor, Tensor], Tensor]
"""`update(tasks, rate)`: one iteration on the task indices int64 `(meta_batch,)` at a learning rate
`()`. It changes the state in place and returns figures to log."""


def run_iteration(update: Update, number: Tensor, rates: Tensor, meta_batch: int) -> Tensor:
    """Run the iteration of a number that is a tensor, and increment it.

    Args:
        update: The iteration.
        number: Number of the iteration, int64 `()`. It is incremented in place.
        rates: Learning rates `(iterations,)`. Later iterations use the last one.
        meta_batch: Tasks per iteration.

    Returns:
        What `update` returns.
    """
    tasks = number * meta_batch + torch.arange(meta_batch, device=number.device)
    rate = rates.index_select(0, number.clamp(max=len(rates) - 1)[None])[0]
    result = update(tasks, rate)
    number += 1
    return result


def capture_iteration(
    update: Update, state: Sequence[Tensor], first: int, rates: Tensor, meta_batch: int
) -> Callable[[], Tensor]:
    """Capture `run_iteration` as a CUDA graph.

    Args:
        update: The iteration. Its shapes are static, and it makes no decision on the host.
        state: The tensors that `update` changes. They are restored after the warm-up.
        first: Number of the first iteration.
        rates: Learning rates `(iterations,)`, on the GPU.
        meta_batch: Tasks per iteration.

    Returns:
        A function that runs the next iteration and returns its figures.

    Raises:
        RuntimeError: Something in `update` waits for the GPU.
    """
    number = torch.full((), first, dtype=torch.int64, device=rates.device)
    before = [tensor.clone() for tensor in state]
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            run_iteration(update, number, rates, meta_batch)
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        figures = run_iteration(update, number, rates, meta_batch)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    number.fill_(first)

    # A graph does not keep the memory alive that it reads: its function holds what was captured.
    captured = number, rates, update

    def replay(captured: object = captured) -> Tensor:
        graph.replay()
        return figures.clone()

    return replay
