"""A batch of few-shot tasks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """A batch of episodes: what is learned from (support set) and what is scored (query set).

    support_x: `(tasks, ways * shots, *input)`, class after class
    support_y: `(tasks, ways * shots)` int64 labels 0 .. ways-1; regression: `(tasks, shots, outputs)` targets
    query_x, query_y: the same with `queries` in the place of `shots`
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @property
    def tasks(self) -> int:
        return self.support_x.shape[0]

    def to(self, *args, **kwargs) -> Episode:
        """Moves the four tensors; a dtype applies to those of floating point."""
        return Episode(*(t.to(*args, **kwargs) if t.is_floating_point() else t.to(*(a for a in args if not isinstance(a, torch.dtype))) for t in self))

    def __getitem__(self, tasks):  # type: ignore[override]
        """The episodes of a slice of the task axis; an int picks a field, as in any named tuple."""
        if isinstance(tasks, slice):
            return Episode(*(t[tasks] for t in tuple(self)))
        return tuple.__getitem__(self, tasks)
