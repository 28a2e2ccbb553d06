"""Images of ImageNet's classes (ILSVRC 2012), resized to 84x84 pixels.

ImageNet may not be redistributed, so users provide it: a folder, or a zip archive of one. A file
belongs to the class that its name begins with, as in `n01532829_5.JPEG`, or to the class that its
folder is named after. The usual `.pkl` files are not read, since a pickle can execute code.

Olga Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge, 2015.
https://arxiv.org/abs/1409.0575
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from episodic.core.blocks import save_images
from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Images, Limits, PhotoDataset
from episodic.datasets.sources.fetch import ARCHIVE_ERRORS, MIRROR_VARIABLE, find_in_mirror

__all__ = [
    "ImageNetSubset",
    "read_class_table",
]

SIZE = 84
IMAGE_PATH = re.compile(r"(?:.*/)?(?:(n\d{8})[^/]*|(n\d{8})/[^/]*)\.(?:jpe?g|png)", re.IGNORECASE)
"""The path of an image. Its class is the prefix of its name, or else the name of its folder."""
SPLIT_TABLES = Path(__file__).parent.parent / "splits"
MAX_IMAGE_BYTES = 64 << 20
"""Bound on one image. ImageNet's largest has 15 MB."""


@dataclass(frozen=True)
class ImageNetSubset(PhotoDataset):
    """Base class of datasets made of some of ImageNet's classes."""

    license = (
        "ImageNet (ILSVRC 2012), https://image-net.org, for non-commercial research and education."
    )
    name: ClassVar[str]
    protocol: ClassVar[str]
    min_images: ClassVar[int]
    """Images that a class must have."""
    max_images: ClassVar[int | None] = None

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        members = ((row["split"], row.get("group", "")) for row in read_class_table(self.name))
        shape = self.features.example_shape((3, SIZE, SIZE))
        return Limits.from_members(self.min_images, members, shape)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `images.npy`, uint8 `(N, 3, 84, 84)`, class after class, and `classes.json`.

        The images come from the folder or the zip archive of the mirror with the dataset's name.
        """
        name = self.name
        source_path = find_in_mirror(mirror, name, f"{name}.zip")
        classes = [row["class"] for row in read_class_table(name)]
        if source_path is None:
            raise FetchError(
                f"{name} cannot be downloaded, since ImageNet may not be redistributed: set "
                f"{MIRROR_VARIABLE} to a folder that contains {name} (or {name}.zip), with images "
                f"of its {len(classes)} classes named as n01532829_5.JPEG"
            )
        images = _find_images(source_path)
        wrong = [c for c in classes if not self._accepts_count(len(images[c]))]
        if wrong:
            least = "" if self.max_images == self.min_images else "at least "
            raise FetchError(
                f"{source_path} is not {name}: {len(wrong)} of its {len(classes)} classes do not "
                f"have {least}{self.min_images} images; {wrong[0]} has {len(images[wrong[0]])}"
            )
        sources = [source for c in classes for source in images[c]]

        def decode() -> Iterator[NDArray[np.uint8]]:
            for row, (path, read) in enumerate(sources, 1):
                yield _decode(read, f"{source_path}/{path}")[None]
                if row % 100 == 0 or row == len(sources):
                    progress("images", row, len(sources))

        with atomic_path(raw / "images.npy") as draft:
            # Written as it is read, since all of it may be larger than memory.
            save_images(draft, (len(sources), 3, SIZE, SIZE), decode())
        counts = [{"class": c, "count": len(images[c])} for c in classes]
        with atomic_path(raw / "classes.json") as draft:
            draft.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")

    def _accepts_count(self, images: int) -> bool:
        return self.min_images <= images and (self.max_images is None or images <= self.max_images)

    def prepare(self, raw: Path, seed: int) -> Images:
        """Return the images as `fetch` wrote them, memory-mapped."""
        for file in ("images.npy", "classes.json"):
            if not (raw / file).is_file():
                raise FetchError(f"{raw / file} does not exist: run the stage download first")
        counts = {
            row["class"]: row["count"]
            for row in json.loads((raw / "classes.json").read_text(encoding="utf-8"))
        }
        classes = read_class_table(self.name)
        return Images(
            images=np.load(raw / "images.npy", mmap_mode="r"),
            classes=[row["class"] for row in classes],
            groups=[row.get("group", "") for row in classes],
            splits=[row["split"] for row in classes],
            counts=np.array([counts[row["class"]] for row in classes], np.int64),
            protocol=self.protocol,
            features=self.features,
        )


def read_class_table(name: str) -> list[dict[str, str]]:
    """Return the split, and the group if it has one, of each class, sorted by name."""
    with (SPLIT_TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _find_images(source_path: Path) -> dict[str, list[tuple[str, Callable[[], bytes]]]]:
    """Return the path of each image and a function that reads it, by class and sorted by path."""
    images: dict[str, list[tuple[str, Callable[[], bytes]]]] = defaultdict(list)
    if source_path.is_dir():
        files = [
            (path.relative_to(source_path).as_posix(), path.read_bytes)
            for path in source_path.rglob("*")
            if path.is_file()
        ]
    else:
        try:
            archive = zipfile.ZipFile(source_path)
        except ARCHIVE_ERRORS as error:
            raise FetchError(f"{source_path} is not a valid zip archive: {error}") from error
        files = [
            (member.filename, _member_reader(archive, member))
            for member in archive.infolist()
            if not member.is_dir() and member.file_size <= MAX_IMAGE_BYTES
        ]
    for name, read in sorted(files):
        if match := IMAGE_PATH.fullmatch(name.replace("\\", "/")):
            images[(match[1] or match[2]).lower()].append((name, read))
    return images


def _member_reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: archive.read(member)


def _decode(read: Callable[[], bytes], name: str) -> NDArray[np.uint8]:
    """Decode an image to uint8 `(3, 84, 84)`.

    An image of another size is resized as a whole, with antialiasing in Pillow's integer
    arithmetic.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(read())).convert("RGB")
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        RuntimeError,  # an encrypted archive
        *ARCHIVE_ERRORS,
    ) as error:
        reason = " ".join(str(error).split())
        raise FetchError(f"{name} cannot be read as an image: {reason}") from error
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)
