"""Quick, Draw!: drawings of 345 kinds of objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from episodic.core.blocks import save_images
from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Images, Limits, PhotoDataset
from episodic.datasets.sources.archives import Archive, obtain
from episodic.datasets.sources.class_table import ClassRow, read_class_table
from episodic.datasets.sources.fetch import MIRROR_VARIABLE

__all__ = ["QuickDraw"]

NAME = "quickdraw"
ADDRESS = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
MAX_BYTES = 512 << 20
"""Bound on the file of a class. The largest has 267 MB."""
SIZE = 28


@dataclass(frozen=True)
class QuickDraw(PhotoDataset):
    """Drawings of 345 kinds of objects in 28x28 pixels, 241 / 52 / 52 classes.

    The split is that of Triantafillou et al.: Meta-Dataset, 2020, which learn2learn uses too.
    https://arxiv.org/abs/1903.03096

    Args:
        drawings: Drawings per class, the first ones of its file. The files have 50 million, of
            which Meta-Dataset uses all.
        features: How images become examples.

    David Ha, Douglas Eck: A Neural Representation of Sketch Drawings, 2017.
    https://arxiv.org/abs/1704.03477
    """

    drawings: Annotated[int, Ge(2), Le(100_000)] = 1000

    license = (
        "The Quick, Draw! Dataset, https://github.com/googlecreativelab/quickdraw-dataset, "
        "Creative Commons Attribution 4.0, Google, Inc."
    )

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        members = ((c.split, "") for c in read_class_table(NAME))
        shape = self.features.example_shape((1, SIZE, SIZE))
        return Limits.from_members(self.drawings, members, shape)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `images.npy`, uint8 `(N, 1, 28, 28)`, strokes 255 on 0, class after class.

        The files `CLASS.npy` come from the folder `quickdraw` of the mirror or from the official
        address. A downloaded file is removed once its first drawings are read.
        """
        classes = read_class_table(NAME)

        def read_classes() -> Iterator[NDArray[np.uint8]]:
            for done, c in enumerate(classes, 1):
                yield self._read_class(c, raw, mirror, progress)
                progress("classes", done, len(classes))

        with atomic_path(raw / "images.npy") as draft:
            save_images(draft, (len(classes) * self.drawings, 1, SIZE, SIZE), read_classes())

    def _read_class(
        self, c: ClassRow, raw: Path, mirror: Path | None, progress: ProgressCallback
    ) -> NDArray[np.uint8]:
        name = f"{c.name}.npy"
        archive = Archive(name, f"{ADDRESS}/{quote(name)}", "", MAX_BYTES)
        path = obtain(archive, NAME, raw, mirror, progress)
        if path.is_dir():
            if not (path / name).is_file():
                raise FetchError(
                    f"{path} does not contain {name}; put the official file there, or unset "
                    f"{MIRROR_VARIABLE} to download it"
                )
            path /= name
        try:
            drawings = np.load(path, mmap_mode="r", allow_pickle=False)
            if drawings.dtype != np.uint8 or drawings.shape != (c.examples, SIZE * SIZE):
                raise ValueError(
                    f"it is {drawings.dtype} {drawings.shape} instead of uint8 "
                    f"{(c.examples, SIZE * SIZE)}"
                )
            return np.array(drawings[: self.drawings]).reshape(-1, 1, SIZE, SIZE)
        except (OSError, ValueError, EOFError) as error:
            raise FetchError(
                f"{path} is not the official file of the class {c.name!r} ({error}): replace it"
            ) from error
        finally:
            (raw / name).unlink(missing_ok=True)

    def prepare(self, raw: Path, seed: int) -> Images:
        """Return the drawings as `fetch` wrote them, memory-mapped."""
        path = raw / "images.npy"
        if not path.is_file():
            raise FetchError(f"{path} does not exist: run the stage download first")
        classes = read_class_table(NAME)
        return Images(
            images=np.load(path, mmap_mode="r"),
            classes=[c.name for c in classes],
            groups=[""] * len(classes),
            splits=[c.split for c in classes],
            counts=np.full(len(classes), self.drawings, np.int64),
            protocol="Meta-Dataset split",
            inverted=True,
            features=self.features,
        )
