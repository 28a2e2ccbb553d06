"""Data sets, one module each. A module of the registry has

`Config`
    a frozen dataclass, its section in params.yaml (`__pydantic_config__` forbids unknown keys; ranges are checked with
    `episodic.core.config.require` in `__post_init__`);
`fetch(raw, config, *, mirror=None, progress=no_progress)`
    fills the empty folder `raw` (a download, a drawing); raises `FetchError` with one sentence;
`prepare(raw, config, seed)`
    the raw files as `Images` or `Texts` (classification), `Sinusoids` or `Tasks` (regression); `seed` decides which class or task is for
    what;
`limits(config, seed)`
    `Limits`, known before any data is there (classification);
`shape(config)`
    the shape of an example, in the place of `limits` (regression);
`LICENSE`
    one line: where the data comes from and on what terms;
`OWN`
    True only where the data is the user's own: `fetch`, `limits` and `shape` then take the path that params call `dataset.source`, as
    `source`; "if named" where it can be: `source` is None where params name none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from episodic.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from episodic.preprocessing.text import TextFeatures

SPLITS = ("train", "validation", "test")

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`; bytes for a download, items otherwise."""


def no_progress(what: str, done: int, total: int) -> None:
    pass


class FetchError(UserError):
    """The data cannot be had; the message is one sentence that says what to do."""


class UnansweredError(FetchError):
    """A server did not answer, or not in full; another try may go well."""

    temporary = True


@dataclass(frozen=True)
class Limits:
    """What an episode can ask for: examples of the smallest class, the number of classes of each split, the shape of an example, the
    number of classes of each group of a split by the group's name (none where classes have no groups), and the name of the smallest class
    ('': all alike)."""

    examples: int
    classes: dict[str, int]
    input: tuple[int, ...] = (1, 28, 28)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    smallest: str = ""

    @classmethod
    def of(
        cls,
        examples: int,
        members: Iterable[tuple[str, str]],
        input: tuple[int, ...] = (1, 28, 28),
        smallest: str = "",
    ) -> Limits:
        """From each class's split and group ('' for none)."""
        counted = Counter(members)
        classes = {split: sum(n for (s, _), n in counted.items() if s == split) for split in SPLITS}
        groups = {
            split: {group: n for (s, group), n in counted.items() if s == split and group}
            for split in SPLITS
        }
        return cls(examples, classes, input, groups, smallest)


def own(module: Any, source: Path | None) -> dict[str, Any]:
    """What `fetch` and others of a data set take beside what all take; source: None where params name none."""
    return {"source": source} if getattr(module, "OWN", False) else {}


@dataclass(frozen=True)
class Images:
    """Images of many classes.

    images: uint8 `(N, C, H, W)`, the images of a class in consecutive rows
    classes, groups, splits: one entry a class, in the order of the rows
    counts: int64 `(classes,)`, images a class
    protocol: words for a caption, as in 'maml split, rotations as classes'
    inverted: whether dark ink on light paper is stored as light on dark
    """

    images: np.ndarray
    classes: list[str]
    groups: list[str]
    splits: list[str]
    counts: np.ndarray
    protocol: str
    inverted: bool = False

    kind = "classification"

    @property
    def inputs(self) -> dict[str, Any]:
        """How a user's pictures become such images: `episodic.preprocessing`."""
        return {"kind": "image", "inverted": self.inverted}

    @property
    def examples(self) -> np.ndarray:
        """What episodes are made of, row by row."""
        return self.images

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.images.shape[1:]


@dataclass(frozen=True)
class Texts:
    """Sentences of many classes.

    texts: the sentences of a class one after the other; classes, groups, splits, counts, protocol: as of `Images`
    features: how they become numbers; outside: sentences that are of no class, as people say them too
    """

    texts: list[str]
    classes: list[str]
    groups: list[str]
    splits: list[str]
    counts: np.ndarray
    protocol: str
    features: TextFeatures
    outside: list[str] = field(default_factory=list)

    kind = "classification"

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Fitted to the sentences of the training classes alone."""
        split = np.repeat(self.splits, self.counts)
        return self.features.fit(
            [t for t, s in zip(self.texts, split, strict=True) if s == "train"]
        )

    @property
    def examples(self) -> Any:
        """Of all sentences, those outside last."""
        return self.encoded(no_progress)

    def encoded(self, progress: Progress) -> Any:
        """The examples, whose making is told of where it takes long."""
        from episodic.preprocessing import base as preprocessing

        local = {"path": Path(self.features.path)} if self.features.kind == "encoder" else {}
        encoder: Any = preprocessing.build({"input": self.input, "inputs": self.inputs | local})
        return encoder.encode(self.texts + self.outside, progress)

    @property
    def input(self) -> tuple[int, ...]:
        return self.features.input


@dataclass(frozen=True)
class Tasks:
    """Regression tasks as they were found, of unequal sizes, the examples of each in their order.

    examples: `(N, *input)`, those of a task in consecutive rows; targets: float32 `(N,)`
    texts: what people call each example, in the order of the rows
    names, splits: one entry a task, in the order of the rows; counts: int64 `(tasks,)`
    inputs: how what a user has becomes such examples: `episodic.preprocessing`
    """

    examples: Tensor
    targets: np.ndarray
    texts: list[str]
    names: list[str]
    splits: list[str]
    counts: np.ndarray
    protocol: str
    inputs: dict[str, Any]

    kind = "regression"

    @property
    def input(self) -> tuple[int, ...]:
        return tuple(self.examples.shape[1:])


@dataclass(frozen=True)
class Sinusoids:
    """The family y = amplitude * sin(x - phase); each range is (low, high), drawn from uniformly."""

    amplitude: tuple[float, float]
    phase: tuple[float, float]
    x: tuple[float, float]
    protocol: str

    kind = "regression"
    inputs: ClassVar[dict[str, Any]] = {"kind": "numbers"}
