"""CIFAR-100: 60,000 colour images of 32x32 pixels, 600 of each of 100 classes in 20 groups.

Alex Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. https://www.cs.toronto.edu/~kriz/cifar.html
The binary version is read (a record: group, class, 3,072 pixels); the Python version is made of pickles, which may run anything.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

from episodic.core.files import atomic_path
from episodic.datasets.base import FetchError, Images, Limits, Progress
from episodic.datasets.sources.fetch import MIRROR, download, in_mirror, read_folder, read_tar

LICENSE = "CIFAR-100, https://www.cs.toronto.edu/~kriz/cifar.html, Alex Krizhevsky 2009; no license is stated."

URL, MD5 = (
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8",
)
FOLDER, FILES = "cifar-100-binary", ("train.bin", "test.bin")
WANTED = rf"{FOLDER}/(train|test)\.bin"
CAP = 200 << 20
"""A bound on the archive and on what is in it: 169 and 184 MB."""
EXAMPLES = 600
RECORD, SHAPE = 2 + 3 * 32 * 32, (3, 32, 32)
TABLE = Path(__file__).parent.parent / "splits" / "cifar100.csv"


def table() -> list[dict[str, str]]:
    """The classes in the order of their numbers, which is that of the alphabet, with their group and their split in each data set."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def limits(name: str) -> Limits:
    return Limits.of(EXAMPLES, ((row[name], row["group"]) for row in table()), SHAPE)


def fetch(raw: Path, mirror: Path | None, progress: Progress) -> None:
    """Writes `train.bin` and `test.bin`, from the mirror's folder `cifar100` (the archive, or the same unpacked) or the official address.

    Raises FetchError where neither has them, or has something else.
    """
    source = in_mirror(mirror, f"cifar100/{FOLDER}.tar.gz", f"cifar100/{FOLDER}")
    target = raw / f"{FOLDER}.tar.gz"
    try:
        if source is None:
            download(URL, target, cap=CAP, progress=progress)
        path = source or target
        files = (
            read_folder(path, wanted=WANTED, cap=CAP, most=2)
            if path.is_dir()
            else _read(path, str(source or URL))
        )
        _check(files, str(source or URL))
    except FetchError as error:
        mend = f"connect to the network and run again, or set {MIRROR} to a folder that holds cifar100/{FOLDER}.tar.gz"
        if source:
            mend = f"put the official archive there, or unset {MIRROR} to download it"
        raise type(error)(f"{error}; {mend}") from error
    target.unlink(missing_ok=True)
    for name, content in files.items():
        with atomic_path(raw / Path(name).name) as draft:
            draft.write_bytes(content)


def _read(path: Path, name: str) -> dict[str, bytes]:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != MD5:
        raise FetchError(
            f"{name} is not the archive of CIFAR-100: its MD5 is {found}, {MD5} is expected"
        )
    return read_tar(path, wanted=WANTED, cap=CAP, most=100, name=name)


def _check(files: dict[str, bytes], name: str) -> None:
    """Every class has its number of images, each in its group."""
    if {Path(file).name for file in files} != set(FILES):
        raise FetchError(f"{name} does not hold {' and '.join(FILES)}")
    if any(len(content) % RECORD for content in files.values()):
        raise FetchError(
            f"{name} is not the binary version of CIFAR-100: its files are not made of records of {RECORD} bytes"
        )
    records = _records(list(files.values()))
    classes = table()
    groups = sorted({row["group"] for row in classes})
    expected = np.array([groups.index(row["group"]) for row in classes])
    counts = np.bincount(records[:, 1], minlength=len(classes))
    if (
        len(counts) != len(classes)
        or (counts != EXAMPLES).any()
        or (records[:, 0] != expected[records[:, 1]]).any()
    ):
        raise FetchError(
            f"{name} is not CIFAR-100: its labels are not {EXAMPLES} images of each of {len(classes)} classes in their groups"
        )


def _records(contents: list[bytes]) -> np.ndarray:
    return np.concatenate(
        [np.frombuffer(content, np.uint8).reshape(-1, RECORD) for content in contents]
    )


def prepare(raw: Path, name: str, protocol: str) -> Images:
    """The images `(60000, 3, 32, 32)`, class after class, split as data set `name` says."""
    missing = [file for file in FILES if not (raw / file).is_file()]
    if missing:
        raise FetchError(f"{raw / missing[0]} is missing: run the stage download first")
    records = _records([(raw / file).read_bytes() for file in FILES])
    classes = table()
    order = records[:, 1].argsort(kind="stable")
    return Images(
        images=records[order, 2:].reshape(-1, *SHAPE),
        classes=[row["class"] for row in classes],
        groups=[row["group"] for row in classes],
        splits=[row[name] for row in classes],
        counts=np.bincount(records[:, 1], minlength=len(classes)).astype(np.int64),
        protocol=protocol,
    )
