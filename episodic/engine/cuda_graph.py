"""An iteration of training as one CUDA graph: a GPU then waits neither for Python nor for a thousand launches.

The iteration's number lives on the GPU, where the graph itself counts it up; learning rate and episodes follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP_CALLS = 3
"""Calls before the capture, in which libraries choose kernels and take their memory; what they change is put back."""

Update = Callable[[Tensor, Tensor], Tensor]
"""`update(tasks, rate)`: one iteration on the tasks of int64 `(meta_batch,)` at a learning rate; changes the state in place."""


def run_iteration(update: Update, number: Tensor, rates: Tensor, meta_batch: int) -> Tensor:
    """One iteration from its number, a tensor, which it counts up; rates `(iterations,)`, the last of which goes on."""
    tasks = number * meta_batch + torch.arange(meta_batch, device=number.device)
    rate = rates.index_select(0, number.clamp(max=len(rates) - 1)[None])[0]
    result = update(tasks, rate)
    number += 1
    return result


def capture_iteration(
    update: Update, state: Sequence[Tensor], first: int, rates: Tensor, meta_batch: int
) -> Callable[[], Tensor]:
    """Captures `run_iteration`; `update` changes the tensors of `state` and returns figures. Iterations from `first` on.

    Raises torch's error if something in it waits for the GPU: a model must be static in shape and free of host decisions.
    """
    number = torch.full((), first, dtype=torch.int64, device=rates.device)
    before = [tensor.clone() for tensor in state]
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            run_iteration(update, number, rates, meta_batch)
    main.wait_stream(side)
    whole = torch.cuda.CUDAGraph()
    with torch.cuda.graph(whole):
        figures = run_iteration(update, number, rates, meta_batch)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    number.fill_(first)

    # A graph does not keep alive the memory that it reads: whoever replays it must hold all that `update` captured too.
    held = number, rates, update

    def one(held: object = held) -> Tensor:
        whole.replay()
        return figures.clone()

    return one
