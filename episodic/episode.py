"""A batch of few-shot tasks."""

from __future__ import annotations

from typing import NamedTuple

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

    def part(self, first: int, last: int) -> Episode:
        """The tasks first ... last - 1."""
        return Episode(*(tensor[first:last] for tensor in self))
