"""Processes that share work.

Work is divided into parts, and every process receives all results in the order of the parts. The
result does not depend on which process computed which part, so sums are bitwise identical for any
number of processes.
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
    """A group of processes, seen from one of them. The default is a single process.

    With more than one, torch.distributed must be initialized.

    Args:
        rank: Rank of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def gather_rows(
        self, function: Callable[[int], Tensor], sizes: Sequence[int], empty: Tensor | None = None
    ) -> Tensor:
        """Compute parts in all processes and concatenate them in every process.

        Each process computes every `size`-th part, so `function` must not depend on the process.

        Args:
            function: Computes part i, of shape `(sizes[i], ...)`.
            sizes: Number of rows of each part.
            empty: Tensor `(0, ...)` with the shape and dtype of a part, for processes that compute
                no part. None: they compute one part to infer them.

        Returns:
            `(sum(sizes), ...)`.

        Raises:
            LostProcessError: Another process has ended.
        """
        local_parts = range(self.rank, len(sizes), self.size)
        if self.size == 1:
            return torch.cat([function(i) for i in local_parts])
        import torch.distributed as dist

        results = [function(i) for i in local_parts] or [function(0) if empty is None else empty]
        rounds, max_rows = -(-len(sizes) // self.size), max(sizes)
        send_buffer = results[0].new_zeros(rounds, max_rows, *results[0].shape[1:])
        for i, result in enumerate(results):
            send_buffer[i, : len(result)] = result
        receive_buffers = [torch.empty_like(send_buffer) for _ in range(self.size)]
        self._run_collective(partial(dist.all_gather, receive_buffers, send_buffer))
        return torch.cat(
            [receive_buffers[i % self.size][i // self.size, :size] for i, size in enumerate(sizes)]
        )

    def broadcast_object(self, message: bytes, device: torch.device) -> bytes:
        """Send bytes from rank 0 to all processes.

        Args:
            message: The bytes to send. Ignored on the other ranks.
            device: Device for communication.

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
        """Overwrite tensors with those of rank 0.

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
        except RuntimeError as error:  # raised by gloo and NCCL when a connection breaks
            detail = " ".join(str(error).split())
            raise LostProcessError(
                "another process of this run has ended; it was killed or ran out of memory "
                f"({detail})"
            ) from error
