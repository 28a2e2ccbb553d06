"""Base classes and data types of datasets.

A dataset is a frozen dataclass: its fields are its section in params.yaml, with their bounds in
their types. A module of this package defines one dataset, the only name in its `__all__`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from episodic.core.config import Section, Setting
from episodic.core.errors import UserError
from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.encoders.features import ImageFeatures

if TYPE_CHECKING:
    from torch import Tensor

    from episodic.core.model import ExampleKind
    from episodic.data.storage import SparseRows
    from episodic.preprocessing.text import TextFeatures

__all__ = [
    "SPLITS",
    "ClassificationDataset",
    "Dataset",
    "FetchError",
    "ImageDataset",
    "Images",
    "Limits",
    "PhotoDataset",
    "PreparedData",
    "RegressionDataset",
    "Sinusoids",
    "Tasks",
    "Texts",
    "UnansweredError",
]

SPLITS = ("train", "validation", "test")


class FetchError(UserError):
    """The data is unavailable or fails verification."""


class UnansweredError(FetchError):
    """A server did not respond, or the response was incomplete. A retry may succeed."""

    temporary = True


@dataclass(frozen=True)
class Dataset(Section):
    """Base class of datasets: subclass `ClassificationDataset` or `RegressionDataset`."""

    license: ClassVar[str]
    """Source and licence of the data, in one line."""

    source_policy: ClassVar[Literal["unused", "optional", "required"]] = "unused"
    """Whether data is user-provided. If so, methods receive its path as `source`."""

    @property
    def produces(self) -> ExampleKind:
        """The kind of the examples. A model fits if its `accepts` contains it."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> Setting | None:
        """The setting for the number of distinct tokens or features; None: it has none."""
        return None

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Fill the empty folder `raw`: download, copy or generate the data.

        Args:
            raw: An empty folder.
            source: Path of user-provided data.
            mirror: A folder to look into before the official address.
            progress: Called with the progress.

        Raises:
            FetchError: The data is unavailable or fails verification.
        """
        raise NotImplementedError

    def prepare(self, raw: Path, seed: int) -> PreparedData:
        """Read the files that `fetch` wrote.

        Args:
            raw: The folder that `fetch` filled.
            seed: Seed of the split.

        Raises:
            FetchError: The folder is incomplete or malformed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ClassificationDataset(Dataset):
    """Base class of datasets with classes."""

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        """Return the limits on episodes, before any data is downloaded.

        Args:
            seed: Seed of the split.
            source: Path of user-provided data.

        Raises:
            FetchError: The user-provided data is missing or malformed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ImageDataset(ClassificationDataset):
    """Base class of datasets of images."""

    @property
    def produces(self) -> ExampleKind:
        return "image"


@dataclass(frozen=True)
class PhotoDataset(ImageDataset):
    """Base class of datasets of images that can be converted to the input of other datasets.

    Args:
        features: How images become examples.
    """

    features: ImageFeatures = field(default_factory=ImageFeatures, kw_only=True)

    @property
    def produces(self) -> ExampleKind:
        return "vector" if self.features.kind == "encoder" else "image"


@dataclass(frozen=True)
class RegressionDataset(Dataset):
    """Base class of datasets with targets."""

    @property
    def min_task_size(self) -> Setting | None:
        """The setting for the size of the smallest task; None: tasks are drawn at any size."""
        return None

    def shape(self, source: Path | None = None) -> tuple[int, ...]:
        """Return the shape of one example.

        Args:
            source: Path of user-provided data.

        Raises:
            FetchError: The user-provided data is missing or malformed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Limits:
    """Limits on the episodes that a dataset supports.

    Attributes:
        examples: Examples of the smallest class.
        classes: Number of classes per split.
        input: Shape of one example.
        groups: Number of classes per split and group. Empty if the classes have no groups.
        smallest: Name of the smallest class; '' if all have the same size.
    """

    examples: int
    classes: dict[str, int]
    input: tuple[int, ...] = (1, 28, 28)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    smallest: str = ""

    @classmethod
    def from_members(
        cls,
        examples: int,
        members: Iterable[tuple[str, str]],
        input: tuple[int, ...] = (1, 28, 28),
        smallest: str = "",
    ) -> Limits:
        """Count classes by their split and group.

        Args:
            examples: Examples of the smallest class.
            members: Split and group of each class; the group is '' for none.
            input: Shape of one example.
            smallest: Name of the smallest class.
        """
        counts = Counter(members)
        classes = {split: sum(n for (s, _), n in counts.items() if s == split) for split in SPLITS}
        groups = {
            split: {group: n for (s, group), n in counts.items() if s == split and group}
            for split in SPLITS
        }
        return cls(examples, classes, input, groups, smallest)


@dataclass(frozen=True)
class Images:
    """Images of many classes.

    Attributes:
        images: uint8 `(N, C, H, W)`. The images of a class are in consecutive rows.
        classes: Name of each class, in the order of the rows.
        groups: Group of each class; '' for none.
        splits: Split of each class.
        counts: Images per class, int64 `(classes,)`.
        protocol: Description of the split, for captions.
        inverted: Whether dark ink on light paper is stored as light on dark.
        features: How images become examples.
        cropped: Whether the images have the size that the encoder expects.
    """

    images: NDArray[np.uint8]
    classes: list[str]
    groups: list[str]
    splits: list[str]
    counts: NDArray[np.int64]
    protocol: str
    inverted: bool = False
    features: ImageFeatures = field(default_factory=ImageFeatures)
    cropped: bool = False

    kind = "classification"

    @property
    def inputs(self) -> dict[str, Any]:
        """The section `inputs` of a model's config.json: see `episodic.preprocessing`."""
        return self.features.describe_inputs(self.inverted)

    @property
    def is_encoded(self) -> bool:
        """Whether examples are computed by a pretrained encoder."""
        return self.features.kind == "encoder"

    def encode(self, progress: ProgressCallback = no_progress) -> NDArray[np.uint8] | Tensor:
        """Return the examples, row by row: the images, or what `features` makes of them.

        Args:
            progress: Called with the number of images that are done.
        """
        if self.features.keeps_pixels:
            return self.images
        return self.features.convert(self.images, self.cropped, self.inverted, progress)

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.features.example_shape(self.images.shape[1:])


@dataclass(frozen=True)
class Texts:
    """Sentences of many classes.

    Attributes:
        texts: The sentences, class after class.
        classes: Name of each class, in the order of the sentences.
        groups: Group of each class; '' for none.
        splits: Split of each class.
        counts: Sentences per class, int64 `(classes,)`.
        protocol: Description of the split, for captions.
        features: How sentences are encoded.
        outside: Sentences that belong to no class.
    """

    texts: list[str]
    classes: list[str]
    groups: list[str]
    splits: list[str]
    counts: NDArray[np.int64]
    protocol: str
    features: TextFeatures
    outside: list[str] = field(default_factory=list)

    kind = "classification"

    @property
    def is_encoded(self) -> bool:
        """Whether examples are computed by a pretrained encoder."""
        return self.features.kind == "encoder"

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The section `inputs` of a model's config.json, fitted to all training classes.

        Training on some of them fits text features again (`episodic.preprocessing.text.refit`).
        """
        splits = np.repeat(self.splits, self.counts)
        return self.features.fit(
            [text for text, split in zip(self.texts, splits, strict=True) if split == "train"]
        )

    def encode(self, progress: ProgressCallback = no_progress) -> SparseRows | Tensor:
        """Compute the examples of all sentences, those outside of all classes last.

        Args:
            progress: Called with the progress of a sentence encoder.
        """
        from episodic.preprocessing import base as preprocessing

        path = {"path": Path(self.features.path)} if self.features.kind == "encoder" else {}
        encoder: Any = preprocessing.build({"input": self.input, "inputs": self.inputs | path})
        examples: SparseRows | Tensor = encoder.encode(self.texts + self.outside, progress)
        return examples

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.features.input


@dataclass(frozen=True)
class Tasks:
    """Regression tasks of different sizes, each with its examples in a fixed order.

    Attributes:
        examples: `(N, *input)`. The examples of a task are in consecutive rows.
        targets: float32 `(N,)`.
        texts: Display name of each example.
        names: Name of each task, in the order of the rows.
        splits: Split of each task.
        counts: Examples per task, int64 `(tasks,)`.
        protocol: Description of the split, for captions.
        inputs: The section `inputs` of a model's config.json: see `episodic.preprocessing`.
    """

    examples: Tensor
    targets: NDArray[np.float32]
    texts: list[str]
    names: list[str]
    splits: list[str]
    counts: NDArray[np.int64]
    protocol: str
    inputs: dict[str, Any]

    kind = "regression"

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.examples.shape[1:])


@dataclass(frozen=True)
class Sinusoids:
    """The family y = amplitude * sin(x - phase), each drawn uniformly from [low, high].

    Attributes:
        amplitude: Bounds of the amplitude.
        phase: Bounds of the phase, in radians.
        x: Bounds of x, in radians.
        protocol: Description of the family, for captions.
    """

    amplitude: tuple[float, float]
    phase: tuple[float, float]
    x: tuple[float, float]
    protocol: str

    kind = "regression"
    inputs: ClassVar[dict[str, Any]] = {"kind": "numbers"}


PreparedData = Images | Texts | Tasks | Sinusoids
