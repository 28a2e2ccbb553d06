"""Numbers of ways and shots: fixed, or drawn per episode between bounds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from episodic.core.config import require

__all__ = [
    "Bounds",
    "EpisodeSize",
    "check_sizes",
    "compute_chance",
    "describe_bounds",
    "describe_sizes",
    "size_bounds",
    "stack_lists",
]

Bounds = tuple[Annotated[int, Ge(1), Le(10_000)], Annotated[int, Ge(1), Le(10_000)]]
"""The smallest and the largest value of an integer that is drawn uniformly."""

EpisodeSize = Annotated[int, Ge(1), Le(10_000)] | Bounds
"""A number of ways or shots, or the bounds between which it is drawn per episode."""


def size_bounds(size: EpisodeSize | None, default: EpisodeSize) -> Bounds:
    """Return the bounds of a number of ways or shots, which are equal if it is not drawn.

    Args:
        size: The number or its bounds; None for the default.
        default: The default, likewise.
    """
    size = default if size is None else size
    return size if isinstance(size, tuple) else (size, size)


def check_sizes(ways: EpisodeSize | None, shots: EpisodeSize | None, unbalanced: bool) -> None:
    """Check the sizes of episodes.

    Args:
        ways: Classes per episode.
        shots: Support examples per class.
        unbalanced: Whether the classes of an episode differ in shots.

    Raises:
        ConfigError: Bounds are not in ascending order, or unbalanced shots have no bounds.
    """
    for key, size in (("ways", ways), ("shots", shots)):
        if isinstance(size, tuple):
            (low, high), bounds = size, list(size)
            fixed = f"must be {low} for a fixed number, or have a larger second bound"
            require(low != high, key, bounds, fixed)
            require(low < high, key, bounds, "must be in ascending order")
    require(
        not unbalanced or isinstance(shots, tuple),
        "unbalanced",
        unbalanced,
        "must be false unless shots has bounds, such as [1, 10]",
    )


def describe_bounds(bounds: Sequence[int]) -> str:
    """Describe bounds: `5 to 20`, or `5` if they are equal."""
    low, high = bounds
    return f"{low} to {high}" if low < high else f"{low}"


def describe_sizes(description: Mapping[str, Any]) -> str:
    """Describe the sizes of episodes: `5-way 1-shot`, or `5 to 20 ways, 1 to 10 shots`.

    Args:
        description: `ways` and `shots` of the largest episode and, if episodes differ in size,
            `varied` with the bounds of both and `unbalanced`.
    """
    varied = description.get("varied")
    if varied is None:
        return f"{description['ways']}-way {description['shots']}-shot"
    sizes = []
    for key, singular in (("ways", "way"), ("shots", "shot")):
        bounds = varied[key]
        sizes.append(f"{describe_bounds(bounds)} {singular if bounds[1] == 1 else key}")
    return ", ".join(sizes) + (" (unbalanced)" if varied["unbalanced"] else "")


def compute_chance(classes: Iterable[Collection[Any]]) -> float:
    """Compute the expected accuracy of random predictions, the mean of 1 / ways over episodes.

    Args:
        classes: The classes of each episode.
    """
    ways = [len(of_episode) for of_episode in classes]
    return 1 / ways[0] if len(set(ways)) == 1 else float(np.mean([1 / n for n in ways]))


def stack_lists(lists: Iterable[np.ndarray]) -> np.ndarray:
    """Stack lists, such as the classes of episodes of different sizes, to a padded array.

    Args:
        lists: Lists of integers that are at least 0.

    Returns:
        `(lists, longest)`, in which -1 is padding.
    """
    rows = list(lists)
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=-1) for row in rows])
