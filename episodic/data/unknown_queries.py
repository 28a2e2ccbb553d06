"""Queries of classes that are not in an episode, for the detection of unknown classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.random_numbers import integers_below, random_bits

__all__ = ["OTHER_CLASS", "OUT_OF_SCOPE", "OpenQueries", "draw_unknown_rows"]

OTHER_CLASS, OUT_OF_SCOPE = -1, -2
"""Labels of queries whose class is not one of the episode: of other classes of the same data, and
of no class at all."""

OpenQueries = Callable[[int, int], tuple[Tensor, Tensor]]
"""`queries(first, end)`: queries of unknown classes for the episodes first, ..., end - 1. Examples
`(tasks, m, *input)` on the device of the computation, and their labels `(m,)`, `OTHER_CLASS` or
`OUT_OF_SCOPE`."""


def draw_unknown_rows(
    classes: Tensor, offsets: Tensor, counts: Tensor, queries: int, seed: int, split: str
) -> Tensor:
    """Draw examples of the other classes of a split for each of its episodes.

    Each example is of a random other class, and a random one of its examples.

    Args:
        classes: Positions of the classes of each episode within the split, distinct, int64
            `(episodes, ways)`. The number of classes of the split is padding, for episodes with
            fewer ways.
        offsets: First row of each class of the split, int64 `(classes,)`.
        counts: Examples per class, int64 `(classes,)`.
        queries: Examples to draw per episode.
        seed: Seed of the episodes.
        split: Name of the split, as for `ClassSampler`.

    Returns:
        Rows, int64 `(episodes, queries)`.
    """
    key = random_numbers.key(seed, f"{split}, unknown classes")
    bits = random_bits(key, torch.arange(len(classes)), 2 * queries)
    others = len(counts) - (classes < len(counts)).sum(1, keepdim=True)
    position = integers_below(bits[:, :queries], others)
    for of_episode in classes.sort(1).values.T:  # in ascending order, each one is skipped
        position = position + (position >= of_episode[:, None])
    return offsets[position] + integers_below(bits[:, queries:], counts[position])
