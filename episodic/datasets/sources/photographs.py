"""Photographs in official archives, with published classes, splits and numbers of images.

The class tables condense those of Meta-Dataset (Apache License 2.0), whose splits learn2learn uses
too.

Eleni Triantafillou et al.: Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
Examples, ICLR 2020. https://arxiv.org/abs/1903.03096
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from episodic.core.blocks import BLOCK
from episodic.core.cores import count_cores
from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Images, Limits, PhotoDataset
from episodic.datasets.sources.archives import Archive, iterate_files, obtain
from episodic.datasets.sources.class_table import ClassRow, read_class_table, require_counts
from episodic.datasets.sources.folder import SplitFractions, assign_splits, require_fractions
from episodic.preprocessing.base import InputError
from episodic.preprocessing.images.reading import decode_image, open_image

__all__ = [
    "Box",
    "ImageSize",
    "Photographs",
    "RandomlySplitPhotographs",
]

ImageSize = Annotated[int, Ge(16), Le(1024)]
"""Height and width of images, in pixels."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image, in pixels; right and bottom are excluded."""


@dataclass(frozen=True)
class Photographs(PhotoDataset):
    """Base class of datasets of photographs in official archives.

    A subclass names its archives and says which image is of which class. Whole images are resized
    to squares with antialiasing, in Pillow's integer arithmetic.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.
    """

    size: ImageSize = 84

    name: ClassVar[str]
    """Name of its folder in the mirror, and of its class table."""

    archives: ClassVar[tuple[Archive, ...]]
    image_pattern: ClassVar[str]
    """Regular expression of the names of the images."""

    label_files: ClassVar[tuple[str, ...]] = ()
    """Names of the files with labels and boxes. Without them, the name of an image has its class.
    """

    inverted: ClassVar[bool] = False
    """Whether dark strokes on light paper are stored as light on dark."""

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        """Return the function from the name of an image to its class.

        Args:
            files: Contents of `label_files`.
        """
        raise NotImplementedError

    def find_boxes(self, files: dict[str, bytes]) -> dict[str, Box]:
        """Return the part of an image to keep, by its name. Other images are kept whole.

        Args:
            files: Contents of `label_files`.
        """
        return {}

    def list_classes(self) -> list[ClassRow]:
        """Return the classes, sorted by name."""
        return read_class_table(self.name)

    def assign_classes(self, seed: int) -> list[str]:
        """Return the split of each class.

        Args:
            seed: Seed of the split, if it is random.
        """
        return [c.split for c in self.list_classes()]

    def group_of(self, name: str) -> str:
        """Return the group of a class; '' for none.

        Args:
            name: Name of the class.
        """
        return ""

    @property
    def protocol(self) -> str:
        """Description of the split, for captions."""
        return "Meta-Dataset split"

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        classes = self.list_classes()
        smallest = min(classes, key=lambda c: c.examples)
        shape = self.features.example_shape((3, self.size, self.size))
        splits = self.assign_classes(seed)
        members = ((s, self.group_of(c.name)) for c, s in zip(classes, splits, strict=True))
        return Limits.from_members(smallest.examples, members, shape, smallest.name)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `images.npy`, uint8 `(N, 3, size, size)`, class after class, sorted by name.

        The archives come from the mirror's folder with the name of the dataset, packed or unpacked,
        or from the official address.
        """
        try:
            # Unpacked archives share one folder.
            paths = list(
                dict.fromkeys(obtain(a, self.name, raw, mirror, progress) for a in self.archives)
            )
            self.write_images(raw / "images.npy", paths, progress)
        finally:
            for archive in self.archives:
                (raw / archive.name).unlink(missing_ok=True)

    def prepare(self, raw: Path, seed: int) -> Images:
        """Return the images as `fetch` wrote them, memory-mapped."""
        path = raw / "images.npy"
        if not path.is_file():
            raise FetchError(f"{path} does not exist: run the stage download first")
        classes = self.list_classes()
        return Images(
            images=np.load(path, mmap_mode="r"),
            classes=[c.name for c in classes],
            groups=[self.group_of(c.name) for c in classes],
            splits=self.assign_classes(seed),
            counts=np.array([c.examples for c in classes], np.int64),
            protocol=self.protocol,
            inverted=self.inverted,
            features=self.features,
        )

    def write_images(self, target: Path, paths: list[Path], progress: ProgressCallback) -> None:
        """Write the images of archives to an array, class after class.

        Args:
            target: Path of the array.
            paths: Archives, or folders with their files.
            progress: Called with the number of images.

        Raises:
            FetchError: The images are not the published ones, or one cannot be read.
        """
        where = " and ".join(map(str, paths))
        names, labels = self._list_files(paths, where)
        rows, boxes = self._order_images(names, labels, where), self.find_boxes(labels)
        done = 0
        with atomic_path(target) as draft:
            shape = (len(rows), 3, self.size, self.size)
            images = np.lib.format.open_memmap(draft, "w+", np.uint8, shape)
            with ThreadPoolExecutor(count_cores()) as pool:
                files = self._read_images(paths, rows, boxes)
                # Block by block, since all images may be larger than memory.
                while block := list(islice(files, BLOCK)):
                    for name, pixels in pool.map(self._decode, block):
                        images[rows[name]] = pixels
                    done += len(block)
                    progress("images", done, len(rows))
            images.flush()

    def _list_files(self, paths: list[Path], where: str) -> tuple[list[str], dict[str, bytes]]:
        """Return the names of the images, and the contents of the files with labels."""
        names, labels = [], {}
        pattern = "|".join([self.image_pattern, *map(re.escape, self.label_files)])
        for path in paths:
            for name, read in iterate_files(path, pattern):
                if name in self.label_files:
                    labels[name] = read()
                else:
                    names.append(name)
        if missing := [name for name in self.label_files if name not in labels]:
            raise FetchError(f"{where} does not contain {missing[0]}")
        return names, labels

    def _order_images(
        self, names: list[str], labels: dict[str, bytes], where: str
    ) -> dict[str, int]:
        """Return the row of each image by its name."""
        by_class: dict[str, list[str]] = defaultdict(list)
        try:
            class_of = self.find_classes(labels)
            for name in sorted(names):
                by_class[class_of(name)].append(name)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise FetchError(
                f"{where} is incomplete or another dataset: its labels cannot be read ({error!r})"
            ) from error
        classes = self.list_classes()
        require_counts({name: len(images) for name, images in by_class.items()}, classes, where)
        ordered = [name for c in classes for name in by_class[c.name]]
        return {name: row for row, name in enumerate(ordered)}

    def _read_images(
        self, paths: list[Path], rows: dict[str, int], boxes: dict[str, Box]
    ) -> Iterator[tuple[str, bytes, Box | None]]:
        """Yield name, content and box of each image, in the order of the archives."""
        for path in paths:
            for name, read in iterate_files(path, self.image_pattern):
                if name in rows:
                    yield name, read(), boxes.get(name)

    def _decode(self, image: tuple[str, bytes, Box | None]) -> tuple[str, NDArray[np.uint8]]:
        name, content, box = image
        try:
            whole = open_image(content, 3)
            part = whole if box is None else whole.crop(box)
            return name, decode_image(part, (3, self.size, self.size), inverted=self.inverted)
        except InputError as error:
            raise FetchError(f"{name}: {error}") from error


@dataclass(frozen=True)
class RandomlySplitPhotographs(Photographs):
    """Base class of datasets whose classes have no published split.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.
        split_fractions: Fractions of the classes for training, validation and test.
    """

    split_fractions: SplitFractions = (0.6, 0.2, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fractions(self.split_fractions)

    def assign_classes(self, seed: int) -> list[str]:
        names = [c.name for c in self.list_classes()]
        splits = assign_splits(names, self.split_fractions, seed)
        return [splits[name] for name in names]

    @property
    def protocol(self) -> str:
        return "classes split at random"
