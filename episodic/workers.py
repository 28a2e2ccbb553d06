"""Threads that share a batch of tasks, each with one core of its own.

On a CPU two threads with half of the tasks each are faster than one whose every operation is split in two, and do not wait for
each other thousands of times an iteration where another program has a core. Which thread computes what is fixed, so that sums
have one order and the bytes do not depend on who is done first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

from episodic.episode import Episode

A = TypeVar("A")
B = TypeVar("B")

LARGE = 100_000
"""Numbers in a batch of episodes from which threads pay; below, Python's own lock makes them wait for each other."""


class Workers:
    """`count` threads; 1 computes in the caller's thread, with torch's own parallelism."""

    def __init__(self, count: int = 1):
        self.count = count
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None

    @classmethod
    def suited(cls, episode: Episode) -> Workers:
        """As many as torch has threads, for large batches on the CPU; a function of the workload alone, never of a timing."""
        x = episode.query_x
        large = x.device.type == "cpu" and episode.support_x.numel() + x.numel() >= LARGE
        return cls(min(torch.get_num_threads(), episode.tasks) if large else 1)

    def map(self, function: Callable[[A], B], parts: Iterable[A]) -> list[B]:
        """`function` of each part, in the order of the parts."""
        return list(self._pool.map(function, parts)) if self._pool else [function(part) for part in parts]

    def shares(self, episode: Episode) -> list[Episode]:
        """The episode's tasks in `count` consecutive parts of nearly the same size."""
        bounds = [episode.tasks * i // self.count for i in range(self.count + 1)]
        return [episode.part(a, b) for a, b in pairwise(bounds) if b > a]
