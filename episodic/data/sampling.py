"""Episodes as a function of `(seed, split, index)`.

An episode is never stored nor drawn from a stream: sampler and index say all, so that resuming needs no generator state and any
number of processes can share the work. Everything is integer tensor arithmetic on the device of the data.
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
from episodic.data.storage import Rows

NOISE = 1
"""Tells the stream of an episode's noise from that of its classes and examples."""

NEAR = 2
"""A harder episode's classes are drawn from this many times as many: those most alike to a class drawn at random, itself among them, so
that it is in the episode one time in NEAR. A class that is near many others comes more often than one that is near few."""

Labels = Literal["episode", "split"]


class Sampler(Protocol):
    """Episodes by index: int64 `(tasks,)` -> Episode with that many tasks."""

    def __call__(self, index: Tensor) -> Episode: ...


def class_episodes(
    key: int,
    index: Tensor,
    counts: Tensor,
    ways: int,
    size: int,
    groups: Groups | None = None,
    hard: Hard | None = None,
) -> tuple[Tensor, Tensor]:
    """Which classes and which of their examples make up the episodes `index`.

    index: int64 `(episodes,)`
    counts: int64 `(classes,)`, examples a class, each at least `size`
    size: examples a class and episode (shots + queries)
    groups: if given, all classes of an episode are of one group, and each group is as likely
    hard: if given, a share of the episodes has classes that are alike; the others are what they are without it

    Returns classes `(episodes, ways)`, distinct and in random order (the position is the label), and examples
    `(episodes, ways, size)`: distinct numbers below the class's count, in random order.
    """
    bits = random_bits(key, index, ways * (1 + size) + 2)
    bits, of, coin = bits[:, :-2], bits[:, -2], bits[:, -1]
    classes = (
        sample_distinct(bits[:, :ways], len(counts), ways)
        if groups is None
        else groups.sample_distinct(bits[:, :ways], of)
    )
    if hard is not None:
        classes = torch.where(
            (integers_below(coin, 1 << 30) < round(hard.share * (1 << 30)))[:, None],
            hard.around.sample_distinct(bits[:, :ways], of),
            classes,
        )
    return classes, sample_distinct(
        bits[:, ways:].view(len(index), ways, size), counts[classes], size
    )


class Groups(NamedTuple):
    """members: int64 `(groups, largest)`, the classes of each group, filled up with 0; sizes: int64 `(groups,)`, how many they are."""

    members: Tensor
    sizes: Tensor

    def sample_distinct(self, bits: Tensor, of: Tensor) -> Tensor:
        """Classes `(episodes, ways)` of one group an episode, from random bits `(episodes, ways)` and, for which group, `(episodes,)`."""
        group = integers_below(of, len(self.sizes))
        return self.members[group].gather(
            1, sample_distinct(bits, self.sizes[group], bits.shape[1])
        )

    @classmethod
    def of(cls, names: Sequence[str], ways: int, device: torch.device | str = "cpu") -> Groups:
        """The groups of at least `ways` classes, from each class's group; ConfigError where there is none."""
        require(any(names), "within_group", True, "must be false, since the classes have no groups")
        found: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            found.setdefault(name, []).append(position)
        large = [found[name] for name in sorted(found) if len(found[name]) >= ways]
        most = max(map(len, found.values()))
        require(
            bool(large),
            "ways",
            ways,
            f"must be at most {most}, the number of classes of the largest group, for episodes within one",
        )
        width = max(map(len, large))
        members = torch.tensor(
            [group + [0] * (width - len(group)) for group in large], device=device
        )
        return cls(members, torch.tensor([len(group) for group in large], device=device))


class Hard(NamedTuple):
    """share: of the episodes that are harder; around: for each class a group, itself and those most alike to it."""

    share: float
    around: Groups

    @classmethod
    def of(cls, share: float, around: Tensor) -> Hard:
        """around: int64 `(classes, k)`, known before training, so that an episode still depends on its index alone"""
        return cls(
            share, Groups(around, torch.full((len(around),), around.shape[1], device=around.device))
        )


@dataclass(frozen=True)
class ClassSampler:
    """Episodes of one split's classes.

    images: examples by row, those of a class in consecutive rows: uint8 images in memory or in a file, features, or tokens
    offsets, counts: int64 `(classes,)`, first row and number of images of each class of the split; all on one device
    labels: what an episode calls its classes: `episode` (0 ... ways - 1) or `split` (the place among all classes of the split)
    groups: if given, each episode's classes are of one group, such as an alphabet
    hard: if given, a share of the episodes is harder
    """

    images: Rows
    offsets: Tensor
    counts: Tensor
    seed: int
    split: str
    ways: int
    shots: int
    queries: int
    labels: Labels = "episode"
    groups: Groups | None = None
    hard: Hard | None = None
    key: int = field(init=False)

    def __post_init__(self) -> None:
        classes, smallest, size = (
            len(self.counts),
            int(self.counts.min()),
            self.shots + self.queries,
        )
        require(
            self.ways <= classes,
            "ways",
            self.ways,
            f"must be at most {classes}, the number of {self.split} classes",
        )
        require(
            size <= smallest,
            "shots + queries",
            size,
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

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For int64 `(tasks,)`: positions of the classes within the split `(tasks, ways)`, rows of the support images
        `(tasks, ways * shots)` and of the query images `(tasks, ways * queries)`, class after class."""
        classes, examples = class_episodes(
            self.key,
            index.to(self.counts.device),
            self.counts,
            self.ways,
            self.shots + self.queries,
            self.groups,
            self.hard,
        )
        rows = self.offsets[classes][..., None] + examples
        return classes, rows[..., : self.shots].flatten(1), rows[..., self.shots :].flatten(1)

    def __call__(self, index: Tensor) -> Episode:
        classes, support, query = self.rows(index)
        noise = random_bits(self.key ^ NOISE, index.to(self.counts.device), 1)[:, 0]
        episode = labelled_episode(self.images, support, query, self.ways)._replace(noise=noise)
        if self.labels == "episode":
            return episode
        return episode._replace(
            support_y=classes.gather(1, episode.support_y),
            query_y=classes.gather(1, episode.query_y),
        )


def labelled_episode(images: Rows, support: Tensor, query: Tensor, ways: int) -> Episode:
    """Rows of `images` as an Episode, images in float32 from 0 (paper) to 1 (ink); rows int64 `(tasks, ways * n)`, class after class."""
    labels = torch.arange(ways, device=images.device)

    def side(rows: Tensor) -> tuple[Tensor, Tensor]:
        x = images[rows.flatten()]
        x = x.float().div_(255) if x.dtype == torch.uint8 else x
        x = torch.unflatten(x, 0, rows.shape)
        return x, labels[:, None].expand(-1, rows.shape[1] // ways).reshape(-1).expand(
            len(rows), -1
        )

    return Episode(*side(support), *side(query), ways)


@dataclass(frozen=True)
class TaskSampler:
    """Tasks as they were found, of unequal sizes and in an order, such as the ratings of each user in the order of time: the support set is
    the first examples of a task, the query set is some that come after them.

    x, y: examples by row, those of a task in consecutive rows; targets float32 `(N,)`
    offsets, counts: int64 `(tasks,)`, first row and number of examples of each task of the split, each more than `shots`
    vary: whether a task's support set is 1 to `shots` examples, each number as likely, or always `shots`
    queries: how many of what comes after it at most: a run of them that begins anywhere
    """

    x: Rows
    y: Tensor
    offsets: Tensor
    counts: Tensor
    seed: int
    split: str
    shots: int
    queries: int
    vary: bool = False
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
            if self.vary
            else torch.full_like(index, self.shots)
        )
        query = (self.counts[task] - support).clamp(max=self.queries)
        skipped = integers_below(bits[:, 2], self.counts[task] - support - query + 1)
        first = self.offsets[task]
        rows = Runs(first, support), Runs(first + support + skipped, query)
        noise = random_bits(self.key ^ NOISE, index, 1)[:, 0]
        return task_episode(self.x, self.y, *rows, self.shots, self.queries)._replace(noise=noise)


class Runs(NamedTuple):
    """Consecutive rows, a run for each task: the first `(tasks,)` and how many `(tasks,)`."""

    first: Tensor
    size: Tensor


def task_episode(
    x: Rows, y: Tensor, support: Runs, query: Runs, shots: int, queries: int
) -> Episode:
    """Runs of examples as an Episode `(tasks, shots, ...)` and `(tasks, queries, ...)`, filled up with each run's last example."""

    def side(run: Runs, width: int) -> tuple[Tensor, Tensor]:
        rows = run.first[:, None] + torch.arange(width, device=y.device).minimum(
            run.size[:, None] - 1
        )
        found = x[rows.flatten()]
        found = found if found.is_floating_point() else found.long()
        return torch.unflatten(found, 0, rows.shape), y[rows][..., None]

    return Episode(
        *side(support, shots),
        *side(query, queries),
        support_size=support.size,
        query_size=query.size,
    )


@dataclass(frozen=True)
class SinusoidSampler:
    """Sine waves y = amplitude * sin(x - phase); every range is (low, high), drawn from uniformly (MAML paper, section 5.1)."""

    amplitude: tuple[float, float]
    phase: tuple[float, float]
    x: tuple[float, float]
    seed: int
    split: str
    shots: int
    queries: int
    device: torch.device | str = "cpu"

    def waves(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For int64 `(tasks,)`: amplitude `(tasks, 1)`, phase `(tasks, 1)`, x `(tasks, shots + queries)`, all float64."""
        bits = random_bits(
            random_numbers.key(self.seed, self.split),
            index.to(self.device),
            2 + self.shots + self.queries,
        )
        return (
            uniform(bits[:, :1], *self.amplitude),
            uniform(bits[:, 1:2], *self.phase),
            uniform(bits[:, 2:], *self.x),
        )

    def __call__(self, index: Tensor) -> Episode:
        amplitude, phase, x = self.waves(index)
        return wave_episode(amplitude, phase, x[:, : self.shots], x[:, self.shots :])


def wave_episode(amplitude: Tensor, phase: Tensor, support_x: Tensor, query_x: Tensor) -> Episode:
    """Sine waves as an Episode in float32, x and y of shape `(tasks, n, 1)`; amplitude and phase `(tasks, 1)`."""

    def side(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[..., None].float(), (amplitude * torch.sin(x - phase))[..., None].float()

    return Episode(*side(support_x), *side(query_x))
