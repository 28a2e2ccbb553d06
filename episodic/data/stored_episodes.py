"""Fixed episodes whose examples are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from episodic.core.episode import Episode

__all__ = ["Episodes", "StoredEpisodes"]


@dataclass(frozen=True)
class StoredEpisodes:
    """Fixed episodes that are built chunk by chunk, because all of them would fill the memory.

    Args:
        tasks: Number of episodes.
        build: Builds the episodes first, ..., last - 1, on the device of the computation. All
            chunks have the shapes of the largest episode.
    """

    tasks: int
    build: Callable[[int, int], Episode]

    def slice_tasks(self, first: int, last: int) -> Episode:
        """Build the episodes first, ..., last - 1."""
        return self.build(first, min(last, self.tasks))

    @cached_property
    def is_padded(self) -> bool:
        """Whether an episode has padding. Episodes that have sizes are built until one has."""
        first = self.slice_tasks(0, 1)
        if first.support_size is None and first.query_size is None:
            return False
        return any(self.slice_tasks(i, i + 1).is_padded for i in range(self.tasks))


Episodes = Episode | StoredEpisodes
"""Fixed episodes, in memory or built when they are needed."""
