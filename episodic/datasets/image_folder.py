"""Pictures of your own: a folder with a folder for each class.

`DIR/CLASS/*.png` (or jpg, bmp, gif, tif, webp): the classes are divided by `dataset.seed`; `DIR/train/CLASS/...`,
`DIR/validation/CLASS/...` (or `val`) and `DIR/test/CLASS/...`: as the folders say. Hidden files, and files that are no pictures, are left
out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodic.core.config import require
from episodic.core.files import atomic_path, write_json
from episodic.datasets.base import FetchError, Images, Limits, Progress, no_progress
from episodic.datasets.sources.folder import Class, divided, of_folders, shares_fault
from episodic.preprocessing.base import InputError, first_problems
from episodic.preprocessing.image import ImagePreprocessor, decode_image

LICENSE = "Pictures of the user's own, on the user's own terms."
OWN = True

MOST_BYTES = 64 << 30


@dataclass(frozen=True)
class Config:
    """size: height and width that every picture is brought to; colour: three channels or one; inverted: dark ink on light paper is stored
    as light on dark, which suits drawings; shares: of the classes, for training, validation and test, where the folders do not say it."""

    size: int = 28
    colour: bool = False
    inverted: bool = False
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(4 <= self.size <= 1024, "size", self.size, "must be between 4 and 1024")
        require(
            not shares_fault(self.shares), "shares", list(self.shares), shares_fault(self.shares)
        )

    @property
    def input(self) -> tuple[int, int, int]:
        return 3 if self.colour else 1, self.size, self.size


def classes_of(source: Path, config: Config) -> list[Class[Path]]:
    """The classes of the folder by name; FetchError lists what is wrong with it."""
    if not source.is_dir():
        raise FetchError(
            f"dataset.source is {source}; it must be a folder with a folder of pictures for each class"
        )
    return of_folders(source, ImagePreprocessor(config.input, config.inverted))


def limits(config: Config, seed: int, source: Path) -> Limits:
    found = classes_of(source, config)
    splits = divided([c.name for c in found], config.shares, seed)
    smallest = min(found, key=lambda c: len(c.examples))
    members = ((c.split or splits[c.name], "") for c in found)
    return Limits.of(len(smallest.examples), members, config.input, smallest.name)


def fetch(
    raw: Path,
    config: Config,
    *,
    source: Path,
    mirror: Path | None = None,
    progress: Progress = no_progress,
) -> None:
    """Writes `images.npy` uint8 `(N, C, size, size)`, class after class by name, and `classes.json`.

    Raises FetchError that names every picture that cannot be read.
    """
    found = classes_of(source, config)
    total = sum(len(c.examples) for c in found)
    shape = (total, *config.input)
    if np.prod(shape, dtype=np.int64) > MOST_BYTES:
        raise FetchError(
            f"{source} has {total:,} pictures, more than {MOST_BYTES >> 30} GB at this size: take a smaller dataset.image_folder.size"
        )
    problems: list[str] = []
    with atomic_path(raw / "images.npy") as draft:
        images = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
        for row, path in enumerate(_files(found)):
            try:
                images[row] = decode_image(path, config.input, config.inverted)
            except InputError as error:
                problems.append(str(error))
            if (row + 1) % 100 == 0 or row + 1 == total:
                progress("pictures", row + 1, total)
        images.flush()
        if problems:
            raise FetchError("\n".join(first_problems(problems)))
    listed = [{"class": c.name, "count": len(c.examples), "split": c.split} for c in found]
    write_json(raw / "classes.json", {"folder": source.resolve().name, "classes": listed})


def _files(found: list[Class[Path]]) -> Iterator[Path]:
    for c in found:
        yield from c.examples


def prepare(raw: Path, config: Config, seed: int) -> Images:
    """The images as `fetch` wrote them, memory-mapped."""
    for file in ("images.npy", "classes.json"):
        if not (raw / file).is_file():
            raise FetchError(f"{raw / file} is missing: run the stage download first")
    content = json.loads((raw / "classes.json").read_text(encoding="utf-8"))
    listed = content["classes"]
    names = [c["class"] for c in listed]
    splits = divided(names, config.shares, seed)
    given = all(c["split"] for c in listed)
    return Images(
        images=np.load(raw / "images.npy", mmap_mode="r"),
        classes=names,
        groups=[""] * len(listed),
        splits=[c["split"] if given else splits[c["class"]] for c in listed],
        counts=np.array([c["count"] for c in listed], np.int64),
        protocol=f"{content['folder']}, classes divided {'by its folders' if given else 'at random'}",
        inverted=config.inverted,
    )
