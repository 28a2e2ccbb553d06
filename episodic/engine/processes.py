"""Processes that share work part by part, each part with one place in the order of the results.

Who computes what never shows: every process gets all results, in the order of the parts, so that sums over them are the same to the
last bit for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from episodic.core.errors import UserError

T = TypeVar("T")


class LostProcessError(UserError):
    """Another process of the group is gone."""

    temporary = True


@dataclass(frozen=True)
class ProcessGroup:
    """One of `size` processes; the default is a process on its own. With more, torch.distributed must have been initialised."""

    rank: int = 0
    size: int = 1

    def gather_rows(
        self, function: Callable[[int], Tensor], sizes: Sequence[int], idle: Tensor | None = None
    ) -> Tensor:
        """function(i), a tensor `(sizes[i], ...)`, for each part i; all of them below each other, `(sum(sizes), ...)`.

        Each process computes its parts, every `size`-th; `function` must not depend on which they are.
        idle: `(0, ...)`, the type and shape of a result, for a process without a part (None: it computes one to learn them)
        """
        mine = range(self.rank, len(sizes), self.size)
        if self.size == 1:
            return torch.cat([function(i) for i in mine])
        import torch.distributed as dist

        results = [function(i) for i in mine] or [function(0) if idle is None else idle]
        slots, height = -(-len(sizes) // self.size), max(sizes)
        sent = results[0].new_zeros(slots, height, *results[0].shape[1:])
        for slot, result in enumerate(results):
            sent[slot, : len(result)] = result
        received = [torch.empty_like(sent) for _ in range(self.size)]
        self._call(partial(dist.all_gather, received, sent))
        return torch.cat(
            [received[i % self.size][i // self.size, :size] for i, size in enumerate(sizes)]
        )

    def broadcast_object(self, said: bytes, device: torch.device) -> bytes:
        """What the process of rank 0 has."""
        if self.size == 1:
            return said
        length = torch.tensor([len(said)], device=device)
        self.broadcast_([length])
        data = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if self.rank == 0 and said:
            data.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
        self.broadcast_([data])
        return data.cpu().numpy().tobytes()

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites the tensors with those of the process of rank 0."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                self._call(partial(dist.broadcast, tensor, 0))

    def _call(self, collective: Callable[[], T]) -> T:
        try:
            return collective()
        except RuntimeError as error:  # what gloo and NCCL raise where a connection broke
            said = " ".join(str(error).split())
            raise LostProcessError(
                f"another process of this run is gone (killed, or out of memory?): {said}"
            ) from error
