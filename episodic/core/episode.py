"""A batch of few-shot tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Episode"]


class Episode(NamedTuple):
    """A batch of episodes, each with a support set to learn from and a query set to be scored on.

    Tasks of different sizes are padded to the largest one. Padding follows the examples of a task,
    and its labels are valid. Classification tasks have equal shots per class if `support_size` is
    None and `ways` is known.

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
        task_ways: Number of classes of each task, int64 `(tasks,)`, if tasks differ in the number
            of classes. `ways` is then the largest one.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    ways: int = 0
    noise: Tensor | None = None
    support_size: Tensor | None = None
    query_size: Tensor | None = None
    task_ways: Tensor | None = None

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

    @property
    def support_mask(self) -> Tensor | None:
        """Which support examples are not padding, bool `(tasks, n)`; None: all."""
        return (
            None if self.support_size is None else _find_examples(self.support_y, self.support_size)
        )

    @property
    def example_mask(self) -> Tensor:
        """Which examples of the support set, then of the query set, are not padding, bool."""
        sets = (self.support_y, self.support_size), (self.query_y, self.query_size)
        return torch.cat(
            [
                torch.ones_like(y, dtype=torch.bool) if size is None else _find_examples(y, size)
                for y, size in sets
            ],
            1,
        )

    @property
    def is_padded(self) -> bool:
        """Whether a task has padding. This synchronizes with a GPU if tasks have sizes."""
        return any(
            size is not None and bool((size < x.shape[1]).any())
            for size, x in ((self.support_size, self.support_x), (self.query_size, self.query_x))
        )

    def mask_padding(self, values: Tensor) -> Tensor:
        """Set the values `(tasks, n, width)` of padding in the support set to 0."""
        mask = self.support_mask
        return values if mask is None else values * mask[..., None]

    def mask_classes(self, logits: Tensor) -> Tensor:
        """Set the logits `(tasks, n, ways)` of classes that a task does not have to -inf."""
        if self.task_ways is None:
            return logits
        classes = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill(classes >= self.task_ways[:, None, None], -torch.inf)

    def trim(self) -> Episode:
        """Remove the padding that all tasks have.

        A single task with equal shots per class then has no sizes, as if it had been drawn alone.
        This synchronizes with a GPU.
        """
        if self.support_size is None or self.query_size is None:
            return self
        support, query = int(self.support_size.max()), int(self.query_size.max())
        ways = self.ways if self.task_ways is None else int(self.task_ways.max())
        episode = self._replace(
            support_x=self.support_x[:, :support],
            support_y=self.support_y[:, :support],
            query_x=self.query_x[:, :query],
            query_y=self.query_y[:, :query],
            ways=ways,
        )
        if self.tasks > 1:
            return episode
        equal = not ways or bool((episode.support_y[0].bincount() * ways == support).all())
        return episode._replace(
            support_size=None if equal else self.support_size, query_size=None, task_ways=None
        )

    def support_batch(self, step: int, size: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Select the mini-batch of the support set for an inner step.

        Classes alternate in proportion to their numbers of examples, and each step continues after
        the examples of the previous one. The examples of a class are already in random order.

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
        else:
            index = ((positions + step * size) % n).expand(self.tasks, -1)
        is_regression = self.support_y.is_floating_point()
        if not is_regression and (self.support_size is not None or not self.ways):
            index = self._order_of_classes().gather(1, index)
        elif not is_regression:
            index = torch.arange(n, device=device).view(self.ways, -1).T.flatten()[index]
        tasks = torch.arange(self.tasks, device=device)[:, None]
        sizes = None if self.support_size is None else self.support_size.clamp(max=size)
        return self.support_x[tasks, index], self.support_y[tasks, index], sizes

    def with_shots(self, shots: int) -> Episode:
        """Keep the first `shots` support examples, of each class if `ways` is known."""
        if self.ways and self.support_size is not None:
            keep = _find_examples(self.support_y, self.support_size)
            keep &= self._rank_in_class() < shots
            width = min(keep.shape[1], self.ways * shots)
            index = (~keep).int().argsort(dim=1, stable=True)[:, :width]
            tasks = torch.arange(self.tasks, device=keep.device)[:, None]
            return self._replace(
                support_x=self.support_x[tasks, index],
                support_y=self.support_y[tasks, index],
                support_size=keep.sum(1),
            )
        x, y = (
            torch.unflatten(tensor, 1, (self.ways or 1, -1))[:, :, :shots].flatten(1, 2)
            for tensor in (self.support_x, self.support_y)
        )
        size = None if self.support_size is None else self.support_size.clamp(max=shots)
        return self._replace(support_x=x, support_y=y, support_size=size)

    def _order_of_classes(self) -> Tensor:
        """Return an order of the support set in which classes alternate, `(tasks, n)`.

        Of the k examples of a class, the i-th is put at the share (i + 1/2) / k of the examples.
        Padding is last.
        """
        one_hot = F.one_hot(self.support_y, self.classes)
        if self.support_mask is not None:
            one_hot = one_hot * self.support_mask[..., None]
        shots = one_hot.sum(1).gather(1, self.support_y)
        place = (self._rank_in_class() + 0.5) / shots
        if self.support_mask is not None:
            place = place.masked_fill(~self.support_mask, torch.inf)
        by_label = self.support_y.argsort(dim=1, stable=True)
        return by_label.gather(1, place.gather(1, by_label).argsort(dim=1, stable=True))

    def _rank_in_class(self) -> Tensor:
        """Return how many earlier examples of the support set have the same label."""
        one_hot = F.one_hot(self.support_y, self.classes)
        return (one_hot.cumsum(1) * one_hot).sum(-1) - 1

    def to(self, device: torch.device) -> Episode:
        """Move all tensors to a device."""
        return self._map_tensors(lambda tensor: tensor.to(device))

    def slice_tasks(self, first: int, last: int) -> Episode:
        """Select the tasks first, ..., last - 1."""
        return self._map_tensors(lambda tensor: tensor[first:last])

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Episode:
        support_x, support_y, query_x, query_y = map(function, self.tensors)
        noise, support_size, query_size, task_ways = (
            None if tensor is None else function(tensor)
            for tensor in (self.noise, self.support_size, self.query_size, self.task_ways)
        )
        return Episode(
            support_x,
            support_y,
            query_x,
            query_y,
            self.ways,
            noise,
            support_size,
            query_size,
            task_ways,
        )


def _find_examples(y: Tensor, size: Tensor) -> Tensor:
    """Return which examples of `y` `(tasks, n)` are not padding, bool `(tasks, n)`."""
    return torch.arange(y.shape[1], device=y.device) < size[:, None]
