"""Samplers: an episode as a function of `(seed, split, index)`.

Episodes are neither stored nor drawn from a stream. The sampler and the index determine an episode,
so resuming needs no generator state and any number of processes can share the work. All
arithmetic is on integer tensors, on the device of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.random_numbers import integers_below, random_bits, sample_distinct, uniform
from episodic.data.storage import Examples, read_examples

__all__ = [
    "NEIGHBOURS_PER_WAY",
    "ClassGroups",
    "ClassSampler",
    "HardEpisodes",
    "LabelScope",
    "RowRanges",
    "Sampler",
    "SinusoidSampler",
    "TaskSampler",
    "build_class_episode",
    "build_sinusoid_episode",
    "build_task_episode",
    "draw_classes_and_examples",
]

NOISE_KEY = 1
"""Distinguishes the random numbers of an episode's noise from those of its classes and examples."""

NEIGHBOURS_PER_WAY = 2
"""Size of the neighbourhood from which the classes of a hard episode are drawn, per way."""

BALANCE_PURPOSE = "{split}, query counts"
"""Purpose of the random numbers for the queries of each class."""

LabelScope = Literal["episode", "split"]
"""Whether labels count the classes of the episode or all classes of the split."""


class Sampler(Protocol):
    """Function from episode indices, int64 `(tasks,)`, to an `Episode` with as many tasks."""

    def __call__(self, index: Tensor) -> Episode:
        """Draw the episodes `index`."""


def draw_classes_and_examples(
    key: int,
    index: Tensor,
    counts: Tensor,
    ways: int,
    size: int,
    groups: ClassGroups | None = None,
    hard_episodes: HardEpisodes | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw the classes of episodes and the examples of these classes.

    Args:
        key: Key of the random numbers.
        index: Episode indices, int64 `(episodes,)`.
        counts: Examples per class, int64 `(classes,)`, each at least `size`.
        ways: Classes per episode.
        size: Examples per class and episode, shots + queries.
        groups: If given, the classes of an episode are of one group, and every group is equally
            likely.
        hard_episodes: If given, a fraction of the episodes has similar classes. The other episodes
            are the same as without it.

    Returns:
        Classes, int64 `(episodes, ways)`, distinct and in random order: the position is the label.
        And examples, int64 `(episodes, ways, size)`, distinct numbers below the count of the class
        in random order.
    """
    bits = random_bits(key, index, ways * (1 + size) + 2)
    bits, group_bits, hard_bits = bits[:, :-2], bits[:, -2], bits[:, -1]
    classes = (
        sample_distinct(bits[:, :ways], len(counts), ways)
        if groups is None
        else groups.draw_classes(bits[:, :ways], group_bits)
    )
    if hard_episodes is not None:
        is_hard = integers_below(hard_bits, 1 << 30) < round(hard_episodes.fraction * (1 << 30))
        similar = hard_episodes.neighbourhoods.draw_classes(bits[:, :ways], group_bits)
        classes = torch.where(is_hard[:, None], similar, classes)
    example_bits = bits[:, ways:].view(len(index), ways, size)
    return classes, sample_distinct(example_bits, counts[classes], size)


def apportion(shares: Tensor, total: int, most: int) -> Tensor:
    """Round shares to whole numbers with a fixed sum, by largest remainders.

    Each unit in turn goes to the share that is furthest from its exact value. Units above the
    maximum of a share go to the others in the same way.

    Args:
        shares: Shares that sum to 1, `(episodes, k)`.
        total: Sum of the result, at most `k * most`.
        most: Maximum of each number.

    Returns:
        int64 `(episodes, k)`.
    """
    counts = torch.zeros(shares.shape, dtype=torch.int64, device=shares.device)
    one = torch.ones_like(counts[:, :1])
    for _ in range(total):
        missing = (shares * total - counts).masked_fill(counts >= most, -torch.inf)
        counts.scatter_add_(1, missing.argmax(1, keepdim=True), one)
    return counts


class ClassGroups(NamedTuple):
    """Groups of classes, such as alphabets.

    Attributes:
        members: Classes of each group, int64 `(groups, largest)`, padded with 0.
        sizes: Classes per group, int64 `(groups,)`.
    """

    members: Tensor
    sizes: Tensor

    def draw_classes(self, bits: Tensor, group_bits: Tensor) -> Tensor:
        """Draw a group for each episode, and distinct classes of this group.

        Args:
            bits: Random bits for the classes, int64 `(episodes, ways)`.
            group_bits: Random bits for the group, int64 `(episodes,)`.

        Returns:
            Classes, int64 `(episodes, ways)`.
        """
        group = integers_below(group_bits, len(self.sizes))
        positions = sample_distinct(bits, self.sizes[group], bits.shape[1])
        return self.members[group].gather(1, positions)

    @classmethod
    def from_names(
        cls, names: Sequence[str], ways: int, device: torch.device | str = "cpu"
    ) -> ClassGroups:
        """Collect the groups that have enough classes for an episode.

        Args:
            names: Name of the group of each class; '' for none.
            ways: Classes per episode.
            device: Device of the result.

        Raises:
            ConfigError: No class has a group, or no group has `ways` classes.
        """
        require(any(names), "within_group", True, "must be false, since the classes have no groups")
        classes: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            classes.setdefault(name, []).append(position)
        groups = [classes[name] for name in sorted(classes) if len(classes[name]) >= ways]
        largest = max(map(len, classes.values()))
        require(
            bool(groups),
            "ways",
            ways,
            f"must be at most {largest}, the number of classes of the largest group, for episodes "
            "within one",
        )
        members = torch.tensor(
            [group + [0] * (largest - len(group)) for group in groups], device=device
        )
        return cls(members, torch.tensor([len(group) for group in groups], device=device))


class HardEpisodes(NamedTuple):
    """Episodes of similar classes.

    The classes of a hard episode are drawn from the neighbourhood of a random class: itself and the
    classes most similar to it. A class with many neighbours occurs more often than one with few.

    Attributes:
        fraction: Fraction of the episodes that are hard.
        neighbourhoods: One group per class, the class itself and those most similar to it.
    """

    fraction: float
    neighbourhoods: ClassGroups

    @classmethod
    def from_neighbours(cls, fraction: float, neighbours: Tensor) -> HardEpisodes:
        """Make hard episodes from neighbours that are known before training.

        Args:
            fraction: Fraction of the episodes that are hard.
            neighbours: Each class and those most similar to it, int64 `(classes, k)`.
        """
        sizes = torch.full((len(neighbours),), neighbours.shape[1], device=neighbours.device)
        return cls(fraction, ClassGroups(neighbours, sizes))


@dataclass(frozen=True)
class ClassSampler:
    """Sampler of N-way K-shot episodes from the classes of one split.

    Args:
        examples: Examples by row. The examples of a class are in consecutive rows.
        offsets: First row of each class of the split, int64 `(classes,)`.
        counts: Examples per class, int64 `(classes,)`.
        seed: Seed of the episodes.
        split: Name of the split. Equal seeds draw different episodes for different names.
        ways: Classes per episode.
        shots: Support examples per class.
        queries: Query examples per class.
        labels: Labels of the examples: `episode` counts the classes of the episode from 0, `split`
            all classes of the split.
        groups: If given, the classes of an episode are of one group, such as an alphabet.
        hard_episodes: If given, a fraction of the episodes has similar classes.
        query_balance: If given, query sets are unbalanced: the shares of their classes are drawn
            from a symmetric Dirichlet distribution with this concentration. The total stays
            `ways * queries`. A class without enough examples leaves its queries to the others.

    Raises:
        ConfigError: There are too few classes, or a class has too few examples.

    Source of unbalanced query sets: Veilleux et al.: Realistic Evaluation of Transductive Few-Shot
    Learning, 2021, section 3 (concentration 2). https://arxiv.org/abs/2204.11181
    """

    examples: Examples
    offsets: Tensor
    counts: Tensor
    seed: int
    split: str
    ways: int
    shots: int
    queries: int
    labels: LabelScope = "episode"
    groups: ClassGroups | None = None
    hard_episodes: HardEpisodes | None = None
    query_balance: float | None = None
    key: int = field(init=False)

    def __post_init__(self) -> None:
        classes, smallest = len(self.counts), int(self.counts.min())
        require(
            self.ways <= classes,
            "ways",
            self.ways,
            f"must be at most {classes}, the number of {self.split} classes",
        )
        require(
            self.shots + self.queries <= smallest,
            "shots + queries",
            self.shots + self.queries,
            f"must be at most {smallest}, the examples of the smallest {self.split} class",
        )
        object.__setattr__(self, "key", random_numbers.key(self.seed, self.split))

    @classmethod
    def from_classes(
        cls,
        classes: Sequence[Tensor],
        ways: int,
        shots: int,
        queries: int,
        seed: int = 0,
        split: str = "train",
    ) -> ClassSampler:
        """Sample episodes of classes that are in memory.

        Args:
            classes: The examples of each class, `(n, *input)`: images as uint8, anything else as a
                model takes it.
            ways: Classes per episode.
            shots: Support examples per class.
            queries: Query examples per class.
            seed: Seed of the episodes.
            split: Name of the split. Equal seeds draw different episodes for different names.

        Raises:
            ConfigError: There are too few classes, or a class has too few examples.
        """
        examples = torch.cat(list(classes))
        counts = torch.tensor([len(examples) for examples in classes], device=examples.device)
        offsets = counts.cumsum(0) - counts
        return cls(examples, offsets, counts, seed, split, ways, shots, queries)

    @property
    def most_queries(self) -> int:
        """Maximum number of queries per class and episode."""
        if self.query_balance is None:
            return self.queries
        return min(self.ways * self.queries, int(self.counts.min()) - self.shots)

    def draw_query_counts(self, index: Tensor) -> Tensor:
        """Draw the number of queries of each class of unbalanced query sets.

        Args:
            index: Episode indices, int64 `(tasks,)`.

        Returns:
            int64 `(tasks, ways)`; `queries` for each class if query sets are balanced.
        """
        index = index.to(self.counts.device)
        if self.query_balance is None:
            return torch.full((len(index), self.ways), self.queries, device=index.device)
        key = random_numbers.key(self.seed, BALANCE_PURPOSE.format(split=self.split))
        shares = random_numbers.dirichlet(key, index, self.query_balance, self.ways)
        return apportion(shares, self.ways * self.queries, self.most_queries)

    def draw_rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw classes and rows of episodes, without reading the examples.

        Args:
            index: Episode indices, int64 `(tasks,)`.

        Returns:
            Positions of the classes within the split, int64 `(tasks, ways)`; rows of the support
            examples, int64 `(tasks, ways * shots)`; and rows of the query examples, int64
            `(tasks, ways * queries)`, both class after class.
        """
        classes, examples = draw_classes_and_examples(
            self.key,
            index.to(self.counts.device),
            self.counts,
            self.ways,
            self.shots + self.most_queries,
            self.groups,
            self.hard_episodes,
        )
        rows = self.offsets[classes][..., None] + examples
        support, query = rows[..., : self.shots].flatten(1), rows[..., self.shots :]
        if self.query_balance is None:
            return classes, support, query.flatten(1)
        position = torch.arange(self.most_queries, device=rows.device)
        is_drawn = position < self.draw_query_counts(index)[..., None]
        return classes, support, query[is_drawn].view(len(rows), self.ways * self.queries)

    def read_episode(self, index: Tensor, support: Tensor, query: Tensor) -> Episode:
        """Read the examples of episodes, and draw their noise.

        Args:
            index: Episode indices, int64 `(tasks,)`.
            support: Rows of the support examples, as from `draw_rows`.
            query: Rows of the query examples, likewise.

        Returns:
            The episodes, with labels from 0 to ways - 1.
        """
        noise = random_bits(self.key ^ NOISE_KEY, index.to(self.counts.device), 1)[:, 0]
        query_counts = None if self.query_balance is None else self.draw_query_counts(index)
        episode = build_class_episode(self.examples, support, query, self.ways, query_counts)
        return episode._replace(noise=noise)

    def __call__(self, index: Tensor) -> Episode:
        classes, support, query = self.draw_rows(index)
        episode = self.read_episode(index, support, query)
        if self.labels == "episode":
            return episode
        return episode._replace(
            support_y=classes.gather(1, episode.support_y),
            query_y=classes.gather(1, episode.query_y),
        )


def build_class_episode(
    examples: Examples,
    support: Tensor,
    query: Tensor,
    ways: int,
    query_counts: Tensor | None = None,
) -> Episode:
    """Read the examples of classification episodes.

    Args:
        examples: Examples by row. Images, uint8, become float32 from 0 to 1.
        support: Rows of the support sets, int64 `(tasks, ways * shots)`, class after class.
        query: Rows of the query sets, int64 `(tasks, ways * queries)`, class after class.
        ways: Classes per episode.
        query_counts: Queries of each class, int64 `(tasks, ways)`. None: equally many.

    Returns:
        The episodes, with labels from 0 to ways - 1.
    """
    labels = torch.arange(ways, device=examples.device)

    def read(rows: Tensor) -> tuple[Tensor, Tensor]:
        y = labels[:, None].expand(-1, rows.shape[1] // ways).reshape(-1)
        return read_examples(examples, rows), y.expand(len(rows), -1)

    episode = Episode(*read(support), *read(query), ways)
    if query_counts is None:
        return episode
    query_y = torch.repeat_interleave(labels.repeat(len(query)), query_counts.flatten())
    return episode._replace(query_y=query_y.view(len(query), -1))


@dataclass(frozen=True)
class TaskSampler:
    """Sampler of recorded tasks of different sizes, such as the ratings of each user over time.

    The support set is the first examples of a task. The query set is a range of consecutive
    examples that begins at a random place after them.

    Args:
        x: Examples by row. The examples of a task are in consecutive rows.
        y: Targets, float32 `(N,)`.
        offsets: First row of each task of the split, int64 `(tasks,)`.
        counts: Examples per task, int64 `(tasks,)`, each more than `shots`.
        seed: Seed of the episodes.
        split: Name of the split. Equal seeds draw different episodes for different names.
        shots: Support examples per task.
        queries: Query examples per task, at most.
        vary_shots: Whether the number of support examples is drawn uniformly from 1 to `shots`.

    Raises:
        ConfigError: A task has too few examples.
    """

    x: Examples
    y: Tensor
    offsets: Tensor
    counts: Tensor
    seed: int
    split: str
    shots: int
    queries: int
    vary_shots: bool = False
    key: int = field(init=False)

    def __post_init__(self) -> None:
        most = int(self.counts.min()) - 1
        require(
            self.shots <= most,
            "shots",
            self.shots,
            f"must be at most {most}, one fewer than the smallest {self.split} task has",
        )
        object.__setattr__(self, "key", random_numbers.key(self.seed, self.split))

    def __call__(self, index: Tensor) -> Episode:
        index = index.to(self.counts.device)
        bits = random_bits(self.key, index, 3)
        task = integers_below(bits[:, 0], len(self.counts))
        support = (
            1 + integers_below(bits[:, 1], self.shots)
            if self.vary_shots
            else torch.full_like(index, self.shots)
        )
        query = (self.counts[task] - support).clamp(max=self.queries)
        skipped = integers_below(bits[:, 2], self.counts[task] - support - query + 1)
        first = self.offsets[task]
        rows = RowRanges(first, support), RowRanges(first + support + skipped, query)
        noise = random_bits(self.key ^ NOISE_KEY, index, 1)[:, 0]
        episode = build_task_episode(self.x, self.y, *rows, self.shots, self.queries)
        return episode._replace(noise=noise)


class RowRanges(NamedTuple):
    """Consecutive rows, one range per task.

    Attributes:
        first: First row of each range, int64 `(tasks,)`.
        size: Rows per range, int64 `(tasks,)`.
    """

    first: Tensor
    size: Tensor


def build_task_episode(
    x: Examples, y: Tensor, support: RowRanges, query: RowRanges, shots: int, queries: int
) -> Episode:
    """Read the examples of recorded tasks.

    Args:
        x: Examples by row.
        y: Targets, float32 `(N,)`.
        support: Rows of the support sets.
        query: Rows of the query sets.
        shots: Width of the support sets. Shorter ones are padded with their last example.
        queries: Width of the query sets, likewise.

    Returns:
        Episodes with x `(tasks, shots, *input)` and `(tasks, queries, *input)`, y with one value
        per example in the last axis, and the sizes without padding.
    """

    def read(ranges: RowRanges, width: int) -> tuple[Tensor, Tensor]:
        position = torch.arange(width, device=y.device).minimum(ranges.size[:, None] - 1)
        rows = ranges.first[:, None] + position
        examples = x[rows.flatten()]
        examples = examples if examples.is_floating_point() else examples.long()
        return torch.unflatten(examples, 0, rows.shape), y[rows][..., None]

    return Episode(
        *read(support, shots),
        *read(query, queries),
        support_size=support.size,
        query_size=query.size,
    )


@dataclass(frozen=True)
class SinusoidSampler:
    """Sampler of sine waves y = amplitude * sin(x - phase), each drawn uniformly from [low, high).

    Args:
        amplitude: Bounds of the amplitude.
        phase: Bounds of the phase, in radians.
        x: Bounds of x, in radians.
        seed: Seed of the episodes.
        split: Name of the split. Equal seeds draw different episodes for different names.
        shots: Support examples per task.
        queries: Query examples per task.
        device: Device of the episodes. It must support float64.

    Chelsea Finn, Pieter Abbeel, Sergey Levine: Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks, 2017, section 5.1. https://arxiv.org/abs/1703.03400
    """

    amplitude: tuple[float, float]
    phase: tuple[float, float]
    x: tuple[float, float]
    seed: int
    split: str
    shots: int
    queries: int
    device: torch.device | str = "cpu"

    def draw_waves(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the parameters and the inputs of sine waves.

        Args:
            index: Episode indices, int64 `(tasks,)`.

        Returns:
            Amplitude `(tasks, 1)`, phase `(tasks, 1)` and x `(tasks, shots + queries)`, float64.
        """
        key = random_numbers.key(self.seed, self.split)
        bits = random_bits(key, index.to(self.device), 2 + self.shots + self.queries)
        return (
            uniform(bits[:, :1], *self.amplitude),
            uniform(bits[:, 1:2], *self.phase),
            uniform(bits[:, 2:], *self.x),
        )

    def __call__(self, index: Tensor) -> Episode:
        amplitude, phase, x = self.draw_waves(index)
        return build_sinusoid_episode(amplitude, phase, x[:, : self.shots], x[:, self.shots :])


def build_sinusoid_episode(
    amplitude: Tensor, phase: Tensor, support_x: Tensor, query_x: Tensor
) -> Episode:
    """Compute the targets of sine waves.

    Args:
        amplitude: Amplitude of each task, `(tasks, 1)`.
        phase: Phase of each task, in radians, `(tasks, 1)`.
        support_x: Inputs of the support sets, `(tasks, shots)`.
        query_x: Inputs of the query sets, `(tasks, queries)`.

    Returns:
        Episodes in float32, x and y of shape `(tasks, n, 1)`.
    """

    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[..., None].float(), (amplitude * torch.sin(x - phase))[..., None].float()

    return Episode(*compute(support_x), *compute(query_x))
