"""User-provided images, in one folder per class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from episodic.core.blocks import save_images
from episodic.core.files import atomic_path, write_json
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Images, Limits, PhotoDataset
from episodic.datasets.sources.folder import (
    OwnClass,
    SplitFractions,
    assign_splits,
    read_folders,
    require_fractions,
)
from episodic.preprocessing.base import InputError
from episodic.preprocessing.image import ImagePreprocessor
from episodic.preprocessing.images.reading import crop_image, decode_image, read_images

__all__ = ["ImageFolder"]

MAX_BYTES = 64 << 30
"""Bound on the images in memory or on disk, after resizing."""


@dataclass(frozen=True)
class ImageFolder(PhotoDataset):
    """User-provided images, in one folder per class.

    The folder is `CLASS/*.png` (or jpg, bmp, gif, tif, webp), whose classes are split at random, or
    `train/CLASS/...`, `validation/CLASS/...` (or `val`) and `test/CLASS/...`. Hidden files and
    files that are not images are ignored.

    With an encoder, every image is resized and cropped as the encoder expects, in colour, and
    `size`, `colour` and `inverted` do not apply. They do not apply with `features.size` either.

    Args:
        features: How images become examples.
        size: Height and width that every image is resized to.
        colour: Whether images have three channels instead of one.
        inverted: Whether dark ink on light paper is stored as light on dark, as suits drawings.
        split_fractions: Fractions of the classes for training, validation and test, where the
            folder structure does not define it.
    """

    size: Annotated[int, Ge(4), Le(1024)] = 28
    colour: bool = False
    inverted: bool = False
    split_fractions: SplitFractions = (0.6, 0.2, 0.2)

    license = "User-provided images; the user's licence terms apply."
    source_policy = "required"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fractions(self.split_fractions)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(C, H, W)` of the stored images."""
        encoder = self.features.encoder
        if encoder is not None:
            return 3, encoder.transform.size, encoder.transform.size
        if self.features.size is not None:
            return 3, self.features.size, self.features.size
        return 3 if self.colour else 1, self.size, self.size

    @property
    def _stores_inverted(self) -> bool:
        return self.inverted and self.features.keeps_pixels

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        classes = self._read_classes(source)
        splits = assign_splits([c.name for c in classes], self.split_fractions, seed)
        smallest = min(classes, key=lambda c: len(c.examples))
        members = ((c.split or splits[c.name], "") for c in classes)
        shape = self.features.example_shape(self.image_shape)
        return Limits.from_members(len(smallest.examples), members, shape, smallest.name)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `images.npy`, uint8 `(N, C, H, W)`, class after class, and `classes.json`.

        Raises:
            FetchError: The folder is malformed, or some images cannot be read. All of them are
                listed.
        """
        classes = self._read_classes(source)
        paths = [path for c in classes for path in c.examples]
        encoder, image_shape = self.features.encoder, self.image_shape
        shape = (len(paths), *image_shape)
        if np.prod(shape, dtype=np.int64) > MAX_BYTES:
            remedy = (
                "choose a smaller dataset.image_folder.size" if encoder is None else "use fewer"
            )
            raise FetchError(
                f"{source} has {len(paths):,} images, more than {MAX_BYTES >> 30} GB at this size: "
                f"{remedy}"
            )

        def read(path: Path) -> NDArray[np.uint8]:
            if encoder is not None:
                return crop_image(path, encoder.transform)
            return decode_image(path, image_shape, self._stores_inverted)

        try:
            with atomic_path(raw / "images.npy") as draft:
                save_images(draft, shape, read_images(paths, read, progress))
        except InputError as error:
            raise FetchError(str(error)) from error
        rows = [{"class": c.name, "count": len(c.examples), "split": c.split} for c in classes]
        folder = Path(source or "").resolve().name
        write_json(raw / "classes.json", {"folder": folder, "classes": rows})

    def prepare(self, raw: Path, seed: int) -> Images:
        """Return the images as `fetch` wrote them, memory-mapped."""
        for file in ("images.npy", "classes.json"):
            if not (raw / file).is_file():
                raise FetchError(f"{raw / file} does not exist: run the stage download first")
        content = json.loads((raw / "classes.json").read_text(encoding="utf-8"))
        rows = content["classes"]
        names = [row["class"] for row in rows]
        splits = assign_splits(names, self.split_fractions, seed)
        given = all(row["split"] for row in rows)
        how = "by its folders" if given else "at random"
        return Images(
            images=np.load(raw / "images.npy", mmap_mode="r"),
            classes=names,
            groups=[""] * len(rows),
            splits=[row["split"] if given else splits[row["class"]] for row in rows],
            counts=np.array([row["count"] for row in rows], np.int64),
            protocol=f"{content['folder']}, classes split {how}",
            inverted=self._stores_inverted,
            features=self.features,
            cropped=True,
        )

    def _read_classes(self, source: Path | None) -> list[OwnClass[Path]]:
        if source is None or not source.is_dir():
            raise FetchError(
                f"dataset.source is {source}; it must be a folder with one folder of images per "
                "class"
            )
        return read_folders(source, ImagePreprocessor())
