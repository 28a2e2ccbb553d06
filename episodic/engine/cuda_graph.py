"""A training iteration as one CUDA graph.

The GPU then does not wait for Python or for individual kernel launches. The iteration number is
stored on the GPU and incremented by the graph. It determines the learning rate and the episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["WARM_UP_CALLS", "Update", "capture_iteration", "run_iteration"]

WARM_UP_CALLS = 3
"""Calls before the capture, during which libraries select kernels and allocate memory."""

Update = Callable[[Tensor, Tensor], Tensor]
"""`update(tasks, rate)`: one iteration on the task indices int64 `(meta_batch,)` at a learning rate
`()`. It updates the state in place and returns values to log."""


def run_iteration(update: Update, number: Tensor, rates: Tensor, meta_batch: int) -> Tensor:
    """Run one iteration and increment its number, which is a tensor.

    Args:
        update: Performs the iteration.
        number: Number of the iteration, int64 `()`, incremented in place.
        rates: Learning rates `(iterations,)`. Later iterations use the last one.
        meta_batch: Tasks per iteration.

    Returns:
        The result of `update`.
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
        update: Performs the iteration. Its shapes must be static, and it must not read GPU values
            on the host.
        state: The tensors that `update` modifies. They are restored after the warm-up.
        first: Number of the first iteration.
        rates: Learning rates `(iterations,)`, on the GPU.
        meta_batch: Tasks per iteration.

    Returns:
        A function that runs the next iteration and returns the values to log.

    Raises:
        RuntimeError: `update` synchronizes with the GPU.
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
        values = run_iteration(update, number, rates, meta_batch)
    for tensor, initial in zip(state, before, strict=True):
        tensor.copy_(initial)
    number.fill_(first)

    # A graph does not keep the memory alive that it reads; the default argument does.
    captured = number, rates, update

    def replay(captured: object = captured) -> Tensor:
        graph.replay()
        return values.clone()

    return replay
