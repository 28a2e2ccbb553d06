"""CIFAR-100: 60,000 colour images of 32x32 pixels, 600 of each of 100 classes in 20 groups.

The binary version is read (a record is group, class and 3,072 pixels), since the pickles of the
Python version could execute code.

Alex Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Images, Limits, PhotoDataset
from episodic.datasets.sources.fetch import (
    MIRROR_VARIABLE,
    download,
    find_in_mirror,
    read_folder,
    read_tar,
)

__all__ = [
    "Cifar100",
    "read_class_table",
]

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
FOLDER, FILES = "cifar-100-binary", ("train.bin", "test.bin")
FILE_PATTERN = rf"{FOLDER}/(train|test)\.bin"
MAX_BYTES = 200 << 20
"""Bound on the archive, which has 169 MB, and on its files, which have 184 MB."""
EXAMPLES = 600
RECORD, SHAPE = 2 + 3 * 32 * 32, (3, 32, 32)
TABLE = Path(__file__).parent.parent / "splits" / "cifar100.csv"


@dataclass(frozen=True)
class Cifar100(PhotoDataset):
    """Base class of datasets made of CIFAR-100's classes."""

    license = (
        "CIFAR-100, https://www.cs.toronto.edu/~kriz/cifar.html, Alex Krizhevsky 2009; no license "
        "is stated."
    )
    column: ClassVar[str]
    """The column of the class table that contains the split."""
    protocol: ClassVar[str]

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        members = ((row[self.column], row["group"]) for row in read_class_table())
        return Limits.from_members(EXAMPLES, members, self.features.example_shape(SHAPE))

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `train.bin` and `test.bin`.

        They come from the folder `cifar100` of the mirror, as the archive or unpacked, or from the
        official address.
        """
        mirrored = find_in_mirror(mirror, f"cifar100/{FOLDER}.tar.gz", f"cifar100/{FOLDER}")
        target = raw / f"{FOLDER}.tar.gz"
        try:
            if mirrored is None:
                download(URL, target, max_bytes=MAX_BYTES, progress=progress)
            path = mirrored or target
            files = (
                read_folder(path, pattern=FILE_PATTERN, max_bytes=MAX_BYTES, max_members=2)
                if path.is_dir()
                else _read_archive(path, str(mirrored or URL))
            )
            _check_labels(files, str(mirrored or URL))
        except FetchError as error:
            remedy = (
                f"connect to the network and run again, or set {MIRROR_VARIABLE} to a "
                f"folder that contains cifar100/{FOLDER}.tar.gz"
            )
            if mirrored:
                remedy = (
                    f"put the official archive there, or unset {MIRROR_VARIABLE} to download it"
                )
            raise type(error)(f"{error}; {remedy}") from error
        target.unlink(missing_ok=True)
        for name, content in files.items():
            with atomic_path(raw / Path(name).name) as draft:
                draft.write_bytes(content)

    def prepare(self, raw: Path, seed: int) -> Images:
        """Return the images `(60000, 3, 32, 32)`, class after class."""
        missing = [file for file in FILES if not (raw / file).is_file()]
        if missing:
            raise FetchError(f"{raw / missing[0]} does not exist: run the stage download first")
        records = _split_records([(raw / file).read_bytes() for file in FILES])
        classes = read_class_table()
        order = records[:, 1].argsort(kind="stable")
        return Images(
            images=records[order, 2:].reshape(-1, *SHAPE),
            classes=[row["class"] for row in classes],
            groups=[row["group"] for row in classes],
            splits=[row[self.column] for row in classes],
            counts=np.bincount(records[:, 1], minlength=len(classes)).astype(np.int64),
            protocol=self.protocol,
            features=self.features,
        )


def read_class_table() -> list[dict[str, str]]:
    """Return the group, and the split in each dataset, of each class in the order of its number.

    The order of the numbers is alphabetical.
    """
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_archive(path: Path, name: str) -> dict[str, bytes]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != MD5:
        raise FetchError(
            f"{name} is not the archive of CIFAR-100: its MD5 is {digest}, {MD5} is expected"
        )
    return read_tar(path, pattern=FILE_PATTERN, max_bytes=MAX_BYTES, max_members=100, name=name)


def _check_labels(files: dict[str, bytes], name: str) -> None:
    """Check that every class has its number of images, each in its group."""
    if {Path(file).name for file in files} != set(FILES):
        raise FetchError(f"{name} does not contain {' and '.join(FILES)}")
    if any(len(content) % RECORD for content in files.values()):
        raise FetchError(
            f"{name} is not the binary version of CIFAR-100: its files do not consist of records "
            f"of {RECORD} bytes"
        )
    records = _split_records(list(files.values()))
    classes = read_class_table()
    groups = sorted({row["group"] for row in classes})
    expected = np.array([groups.index(row["group"]) for row in classes])
    counts = np.bincount(records[:, 1], minlength=len(classes))
    if (
        len(counts) != len(classes)
        or (counts != EXAMPLES).any()
        or (records[:, 0] != expected[records[:, 1]]).any()
    ):
        raise FetchError(
            f"{name} is not CIFAR-100: its labels are not {EXAMPLES} images of each of "
            f"{len(classes)} classes in their groups"
        )


def _split_records(contents: list[bytes]) -> NDArray[np.uint8]:
    return np.concatenate(
        [np.frombuffer(content, np.uint8).reshape(-1, RECORD) for content in contents]
    )
