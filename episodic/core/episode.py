"""A batch of few-shot tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Episode"]


class Episode(NamedTuple):
    """A batch of episodes, each with a support set to learn from and a query set to be scored on.

    Args:
        support_x: Support examples `(tasks, ways * shots, *input)`, ordered by class.
        support_y: Labels `(tasks, ways * shots)`, int64 from 0 to ways - 1. For regression,
            targets `(tasks, shots, outputs)`.
        query_x: Query examples, with queries instead of shots.
        query_y: Labels or targets of the query examples.
        ways: Classes per episode. 0 if unknown: it is then read from the labels, which
            synchronizes with a GPU.
        noise: A random int64 number per training episode `(tasks,)`, which seeds the random numbers
            of a model (such as those of DropBlock).
        support_size: Number of support examples of each task, int64 `(tasks,)`, if tasks differ in
            size. The remaining examples are padding.
        query_size: Number of query examples of each task, likewise.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    ways: int = 0
    noise: Tensor | None = None
    support_size: Tensor | None = None
    query_size: Tensor | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.support_x.shape[0]

    @property
    def classes(self) -> int:
        """Number of classes per task."""
        return self.ways or int(self.support_y.max()) + 1

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Examples and labels of the support set and of the query set."""
        return self.support_x, self.support_y, self.query_x, self.query_y

    def support_batch(self, step: int, size: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Select the mini-batch of the support set for an inner step.

        Mini-batches alternate between classes if `ways` is known, and each step continues after the
        examples of the previous one. The examples of an episode are already in random order.

        Args:
            step: Index of the inner step.
            size: Examples per mini-batch; None for the whole support set.

        Returns:
            Examples `(tasks, size, *input)`, their labels, and the number of examples of each task
            `(tasks,)`, or None if all tasks have the same size.
        """
        n = self.support_x.shape[1]
        if size is None or size >= n:
            return self.support_x, self.support_y, self.support_size
        device = self.support_x.device
        positions = torch.arange(size, device=device)
        if self.support_size is not None:
            counts = self.support_size[:, None]
            index = torch.where(counts > size, (positions + step * size) % counts, positions)
            tasks = torch.arange(self.tasks, device=device)[:, None]
            return (
                self.support_x[tasks, index],
                self.support_y[tasks, index],
                self.support_size.clamp(max=size),
            )
        order = torch.arange(n, device=device).view(self.ways or 1, -1).T.flatten()
        index = order[(positions + step * size) % n]
        return self.support_x[:, index], self.support_y[:, index], None

    def with_shots(self, shots: int) -> Episode:
        """Keep the first `shots` support examples, of each class if `ways` is known."""
        x, y = (
            torch.unflatten(tensor, 1, (self.ways or 1, -1))[:, :, :shots].flatten(1, 2)
            for tensor in (self.support_x, self.support_y)
        )
        size = None if self.support_size is None else self.support_size.clamp(max=shots)
        return self._replace(support_x=x, support_y=y, support_size=size)

    def to(self, device: torch.device) -> Episode:
        """Move all tensors to a device."""
        return self._map_tensors(lambda tensor: tensor.to(device))

    def slice_tasks(self, first: int, last: int) -> Episode:
        """Select the tasks first, ..., last - 1."""
        return self._map_tensors(lambda tensor: tensor[first:last])

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Episode:
        support_x, support_y, query_x, query_y = map(function, self.tensors)
        noise, support_size, query_size = (
            None if tensor is None else function(tensor)
            for tensor in (self.noise, self.support_size, self.query_size)
        )
        return Episode(
            support_x, support_y, query_x, query_y, self.ways, noise, support_size, query_size
        )
