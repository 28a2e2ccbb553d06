"""Processes that share work in parts.

It never shows which process computed what: every process gets all results in the order of the
parts. Sums over them are therefore the same to the last bit for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from episodic.core.errors import UserError

__all__ = ["LostProcessError", "ProcessGroup"]

T = TypeVar("T")


class LostProcessError(UserError):
    """Another process of the group has ended."""

    temporary = True


@dataclass(frozen=True)
class ProcessGroup:
    """A group of processes, as one of them sees it. The default is a single process.

    torch.distributed must have been initialized for more than one.

    Args:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def gather_rows(
        self, function: Callable[[int], Tensor], sizes: Sequence[int], idle: Tensor | None = None
    ) -> Tensor:
        """Compute parts in all processes, and concatenate them in every process.

        Each process computes every `size`-th part, so `function` must not depend on which.

        Args:
            function: `function(i)` is part i, `(sizes[i], ...)`.
            sizes: Rows of each part.
            idle: `(0, ...)`, with the type and shape of a part, for a process that computes none;
                None to compute one to learn them.

        Returns:
            `(sum(sizes), ...)`.

        Raises:
            LostProcessError: Another process has ended.
        """
        own = range(self.rank, len(sizes), self.size)
        if self.size == 1:
            return torch.cat([function(i) for i in own])
        import torch.distributed as dist

        results = [function(i) for i in own] or [function(0) if idle is None else idle]
        slots, height = -(-len(sizes) // self.size), max(sizes)
        sent = results[0].new_zeros(slots, height, *results[0].shape[1:])
        for slot, result in enumerate(results):
            sent[slot, : len(result)] = result
        received = [torch.empty_like(sent) for _ in range(self.size)]
        self._run_collective(partial(dist.all_gather, received, sent))
        return torch.cat(
            [received[i % self.size][i // self.size, :size] for i, size in enumerate(sizes)]
        )

    def broadcast_object(self, message: bytes, device: torch.device) -> bytes:
        """Send bytes from the process of rank 0 to all.

        Args:
            message: What rank 0 sends. That of other processes is ignored.
            device: Device that the processes communicate on.

        Returns:
            The message of rank 0.

        Raises:
            LostProcessError: Another process has ended.
        """
        if self.size == 1:
            return message
        length = torch.tensor([len(message)], device=device)
        self.broadcast_([length])
        data = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if self.rank == 0 and message:
            data.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
        self.broadcast_([data])
        return data.cpu().numpy().tobytes()

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the process of rank 0.

        Raises:
            LostProcessError: Another process has ended.
        """
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                self._run_collective(partial(dist.broadcast, tensor, 0))

    def _run_collective(self, collective: Callable[[], T]) -> T:
        try:
            return collective()
        except RuntimeError as error:  # raised by gloo and NCCL where a connection broke
            detail = " ".join(str(error).split())
            raise LostProcessError(
                "another process of this run has ended; it was killed or ran out of memory "
                f"({detail})"
            ) from error
