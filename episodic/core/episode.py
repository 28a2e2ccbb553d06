"""A batch of few-shot tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """A batch of episodes: what is learned from (support set) and what is scored (query set).

    support_x: `(tasks, ways * shots, *input)`, class after class
    support_y: `(tasks, ways * shots)` int64 labels 0 .. ways-1; regression: `(tasks, shots, outputs)` targets
    query_x, query_y: the same with `queries` in the place of `shots`
    ways: the number of classes; 0: not said (then the labels tell it, for which a GPU must be waited for)
    noise: int64 `(tasks,)`, a random number of each training episode, which what a model draws while training follows from
    support_size, query_size: int64 `(tasks,)`, where tasks differ in size: how many examples of each count; those behind them fill it up
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
        return self.support_x.shape[0]

    @property
    def classes(self) -> int:
        return self.ways or int(self.support_y.max()) + 1

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.support_x, self.support_y, self.query_x, self.query_y

    def support_batch(self, step: int, size: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Support x, y and sizes of the mini-batch that inner step `step` sees (all of it for None): `size` examples, of one class after
        the other where `ways` tells them, going on where the step before stopped. An episode's examples are in random order already."""
        n = self.support_x.shape[1]
        if size is None or size >= n:
            return self.support_x, self.support_y, self.support_size
        device = self.support_x.device
        places = torch.arange(size, device=device)
        if self.support_size is not None:
            counts = self.support_size[:, None]
            rows = torch.where(counts > size, (places + step * size) % counts, places)
            tasks = torch.arange(self.tasks, device=device)[:, None]
            return (
                self.support_x[tasks, rows],
                self.support_y[tasks, rows],
                self.support_size.clamp(max=size),
            )
        order = torch.arange(n, device=device).view(self.ways or 1, -1).T.flatten()
        rows = order[(places + step * size) % n]
        return self.support_x[:, rows], self.support_y[:, rows], None

    def with_shots(self, shots: int) -> Episode:
        """The same with the first `shots` support examples alone (of each class, where `ways` tells them)."""
        x, y = (
            side.unflatten(1, (self.ways or 1, -1))[:, :, :shots].flatten(1, 2)
            for side in (self.support_x, self.support_y)
        )
        size = None if self.support_size is None else self.support_size.clamp(max=shots)
        return self._replace(support_x=x, support_y=y, support_size=size)

    def to(self, device: torch.device) -> Episode:
        return self._each(lambda tensor: tensor.to(device))

    def slice_tasks(self, first: int, last: int) -> Episode:
        """The tasks first ... last - 1."""
        return self._each(lambda tensor: tensor[first:last])

    def _each(self, function: Callable[[Tensor], Tensor]) -> Episode:
        support_x, support_y, query_x, query_y = map(function, self.tensors)
        noise, support_size, query_size = (
            None if t is None else function(t)
            for t in (self.noise, self.support_size, self.query_size)
        )
        return Episode(
            support_x, support_y, query_x, query_y, self.ways, noise, support_size, query_size
        )
