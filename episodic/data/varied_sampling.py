"""Episodes whose numbers of classes and of support examples are drawn per episode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.episode_size import Bounds
from episodic.core.random_numbers import integers_below, random_bits, uniform
from episodic.data.sampling import ClassSampler, build_class_episode
from episodic.data.storage import Examples

__all__ = ["DrawnRows", "VariedClassSampler", "build_varied_episode"]

MAX_RATIO = 2.0
"""Unbalanced classes have random weights, log-uniform from 1 / MAX_RATIO to MAX_RATIO."""


class DrawnRows(NamedTuple):
    """The classes and rows of episodes of different sizes, one tensor per episode.

    Attributes:
        classes: Positions of the classes within the split, int64 `(ways,)`.
        support: Rows of the support examples, int64, class after class.
        query: Rows of the query examples, likewise.
        shots: Support examples of each class, int64 `(ways,)`.
    """

    classes: list[Tensor]
    support: list[Tensor]
    query: list[Tensor]
    shots: list[Tensor]


@dataclass(frozen=True)
class VariedClassSampler:
    """Sampler of episodes that are parts of the episodes of another sampler.

    An episode keeps its first classes, and of each class its first support examples. All queries of
    these classes are kept, so query sets are balanced. Episodes are padded to the largest one.

    Without `unbalanced`, the classes of an episode have equal shots. With it, the support set of W
    classes with an average of K shots is distributed as in Meta-Dataset:

        R_c ~ exp(a_c) * (examples of class c),  a_c uniform in [log 1/2, log 2],  sum_c R_c = 1
        shots_c = floor(R_c * W * (K - 1)) + 1,  clamped to the bounds

    Differs from the paper: the number of classes and K are uniform between bounds that are set
    (paper: 5 to 50 classes, and a size of the support set of at most 500 that depends on the
    numbers of examples), and so is the number of queries (paper: at most 10). Classes are drawn
    without the hierarchies of ImageNet and Omniglot, unless the sampler has groups.

    Args:
        sampler: Sampler of the largest episodes. Its ways and shots are the upper bounds.
        ways: Bounds of the number of classes.
        shots: Bounds of the number of support examples per class.
        unbalanced: Whether the classes of an episode differ in shots.

    Raises:
        ConfigError: The bounds do not match those of the sampler, or its query sets are unbalanced.

    Source: Eleni Triantafillou et al.: Meta-Dataset: A Dataset of Datasets for Learning to Learn
    from Few Examples, ICLR 2020, section 3.2. https://arxiv.org/abs/1903.03096
    """

    sampler: ClassSampler
    ways: Bounds
    shots: Bounds
    unbalanced: bool = False

    def __post_init__(self) -> None:
        for name in ("ways", "shots"):
            (low, high), largest = getattr(self, name), getattr(self.sampler, name)
            require(
                1 <= low <= high == largest,
                name,
                [low, high],
                f"must be bounds from at least 1 to {largest}, the {name} of the largest episodes",
            )
        require(
            self.sampler.query_balance is None,
            "query_balance",
            self.sampler.query_balance,
            "must be null if episodes differ in size, since their query sets are balanced",
        )

    def draw_sizes(self, index: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the sizes of episodes.

        Args:
            index: Episode indices, int64 `(tasks,)`.
            classes: Positions of the classes within the split, int64 `(tasks, largest ways)`.

        Returns:
            Number of classes, int64 `(tasks,)`, and shots of each class, int64
            `(tasks, largest ways)`. Classes that are not part of the episode have 0 shots.
        """
        sampler, (fewest, most) = self.sampler, self.shots
        key = random_numbers.key(sampler.seed, f"sizes of {sampler.split} episodes")
        bits = random_bits(key, index.to(classes.device), 2 + sampler.ways)
        ways = self.ways[0] + integers_below(bits[:, 0], self.ways[1] - self.ways[0] + 1)
        mean_shots = fewest + integers_below(bits[:, 1:2], most - fewest + 1)
        is_class = torch.arange(sampler.ways, device=classes.device) < ways[:, None]
        shots = mean_shots.expand_as(classes)
        if self.unbalanced:
            ratio = uniform(bits[:, 2:], -math.log(MAX_RATIO), math.log(MAX_RATIO)).exp()
            weight = torch.where(is_class, ratio * sampler.counts[classes], 0)
            fraction = weight / weight.sum(1, keepdim=True)
            shots = (fraction * ways[:, None] * (mean_shots - 1)).floor().long() + 1
            shots = shots.clamp(fewest, most)
        return ways, torch.where(is_class, shots, 0)

    def draw_rows(self, index: Tensor) -> DrawnRows:
        """Draw classes and rows of episodes without padding, and without reading the examples.

        Args:
            index: Episode indices, int64 `(tasks,)`.
        """
        classes, support, query = self.sampler.draw_rows(index)
        ways, shots = self.draw_sizes(index, classes)
        kept = (
            _is_kept(support, shots),
            _is_kept(query, (shots > 0) * self.sampler.queries),
        )
        return DrawnRows(
            [positions[:n] for positions, n in zip(classes, ways.tolist(), strict=True)],
            [rows[is_kept] for rows, is_kept in zip(support, kept[0], strict=True)],
            [rows[is_kept] for rows, is_kept in zip(query, kept[1], strict=True)],
            [counts[:n] for counts, n in zip(shots, ways.tolist(), strict=True)],
        )

    def __call__(self, index: Tensor) -> Episode:
        sampler = self.sampler
        classes, support, query = sampler.draw_rows(index)
        ways, shots = self.draw_sizes(index, classes)
        support, support_y, support_size = _keep_first(support, shots)
        query, query_y, query_size = _keep_first(query, (shots > 0) * sampler.queries)
        if sampler.labels == "split":
            support_y, query_y = classes.gather(1, support_y), classes.gather(1, query_y)
        return sampler.read_episode(index, support, query)._replace(
            support_y=support_y,
            query_y=query_y,
            support_size=support_size,
            query_size=query_size,
            task_ways=ways if self.ways[0] < self.ways[1] else None,
        )


def build_varied_episode(
    examples: Examples, support: Tensor, query: Tensor, shots: Tensor, varied_ways: bool
) -> Episode:
    """Read the examples of episodes of different sizes.

    Args:
        examples: Examples by row, as for `build_class_episode`.
        support: Rows of the support sets, int64 `(tasks, n)`, class after class, then padding.
        query: Rows of the query sets, likewise, with equally many queries per class.
        shots: Shots of each class, int64 `(tasks, largest ways)`; 0 for classes that a task does
            not have.
        varied_ways: Whether tasks differ in the number of classes.

    Returns:
        The episodes, with labels from 0 to ways - 1 and the sizes without padding.
    """
    largest = shots.shape[1]
    ways = (shots > 0).sum(1)
    queries = query.shape[1] // largest
    label = torch.arange(largest, device=shots.device)

    def repeat(counts: Tensor, width: int) -> Tensor:
        """Return labels `(tasks, width)` with these counts per class; padding has label 0."""
        ends = counts.cumsum(1)
        position = torch.arange(width, device=shots.device)
        labels = torch.searchsorted(ends, position.expand(len(ends), -1).contiguous(), right=True)
        return labels.where(position < ends[:, -1:], 0)

    query_counts = (label < ways[:, None]) * queries
    episode = build_class_episode(examples, support, query, largest)
    return episode._replace(
        support_y=repeat(shots, support.shape[1]),
        query_y=repeat(query_counts, query.shape[1]),
        support_size=shots.sum(1),
        query_size=query_counts.sum(1),
        task_ways=ways if varied_ways else None,
    )


def _is_kept(rows: Tensor, kept: Tensor) -> Tensor:
    """Return which rows are kept, bool `(tasks, ways * n)`. Arguments are as in `_keep_first`."""
    width = rows.shape[1]
    per_class = width // kept.shape[1]
    position = torch.arange(width, device=rows.device)
    return position % per_class < kept[:, position // per_class]


def _keep_first(rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the first examples of each class, and pad with the last one that is kept.

    Args:
        rows: Rows of the examples, int64 `(tasks, ways * n)`, class after class.
        kept: Number of examples to keep of each class, int64 `(tasks, ways)`.

    Returns:
        Rows and labels, int64 `(tasks, ways * n)`, and the number of examples, int64 `(tasks,)`.
    """
    width = rows.shape[1]
    per_class = width // kept.shape[1]
    position = torch.arange(width, device=rows.device)
    is_kept = _is_kept(rows, kept)
    size = kept.sum(1)
    order = (~is_kept).int().argsort(dim=1, stable=True)
    order = order.gather(1, position.minimum(size[:, None] - 1))
    return rows.gather(1, order), order // per_class, size
