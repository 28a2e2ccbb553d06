"""Pictures of your own: a folder with a folder for each class.

`DIR/CLASS/*.png` (or jpg, bmp, gif, tif, webp): the classes are divided by `dataset.seed`; `DIR/train/CLASS/...`,
`DIR/validation/CLASS/...` (or `val`) and `DIR/test/CLASS/...`: as the folders say. Hidden files, and files that are no pictures, are left
out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodic.config import require
from episodic.datasets import SPLITS, FetchError, Images, Limits, Progress, no_progress
from episodic.files import beside, write_json
from episodic.inputs import InputError, folders, told
from episodic.inputs.image import Pictures, decode

LICENSE = "Pictures of the user's own, on the user's own terms."
OWN = True

NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
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
        good = all(0 < share < 1 for share in self.shares) and abs(sum(self.shares) - 1) < 1e-6
        require(good, "shares", list(self.shares), "must be three numbers above 0 that add up to 1")

    @property
    def input(self) -> tuple[int, int, int]:
        return 3 if self.colour else 1, self.size, self.size


@dataclass(frozen=True)
class Class:
    """split: '' where the folders do not say it"""

    name: str
    split: str
    files: list[Path]


def classes_of(source: Path, config: Config) -> list[Class]:
    """The classes of the folder by name; FetchError lists what is wrong with it."""
    if not source.is_dir():
        raise FetchError(f"dataset.source is {source}: must be a folder with a folder of pictures for each class")
    pictures = Pictures(config.input, config.inverted)
    inner = {path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")}
    divided = bool(inner) and inner <= NAMES.keys()
    try:
        if not divided:
            return [Class(name, "", files) for name, files in folders(source, pictures).items()]
        lacking = [split for split in SPLITS if split not in {NAMES[name] for name in inner}]
        if lacking:
            raise FetchError(
                f"{source} has the folders {', '.join(sorted(inner))} and none for {', '.join(lacking)}: classes are needed for each"
            )
        found = [Class(name, NAMES[part], files) for part in sorted(inner) for name, files in folders(source / part, pictures).items()]
    except InputError as error:
        raise FetchError(str(error)) from error
    names = [c.name for c in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FetchError(
            f"{source}: {', '.join(twice)} lies in several of {', '.join(sorted(inner))}: a class belongs to one of them alone"
        )
    return sorted(found, key=lambda c: c.name)


def divided(names: list[str], config: Config, seed: int) -> dict[str, str]:
    """The split of each class: at random by the seed, in the proportions of `shares`."""
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/image_folder/{name}".encode()).digest())
    ends = np.rint(np.cumsum(config.shares) * len(names)).astype(int)
    return {name: SPLITS[int(np.searchsorted(ends, place, side="right"))] for place, name in enumerate(order)}


def limits(config: Config, seed: int, source: Path) -> Limits:
    found = classes_of(source, config)
    splits = divided([c.name for c in found], config, seed)
    smallest = min(found, key=lambda c: len(c.files))
    members = ((c.split or splits[c.name], "") for c in found)
    return Limits.of(len(smallest.files), members, config.input, smallest.name)


def fetch(raw: Path, config: Config, *, source: Path, mirror: Path | None = None, progress: Progress = no_progress) -> None:
    """Writes `images.npy` uint8 `(N, C, size, size)`, class after class by name, and `classes.json`.

    Raises FetchError that names every picture that cannot be read.
    """
    found = classes_of(source, config)
    total = sum(len(c.files) for c in found)
    shape = (total, *config.input)
    if np.prod(shape, dtype=np.int64) > MOST_BYTES:
        raise FetchError(
            f"{source} has {total:,} pictures, more than {MOST_BYTES >> 30} GB at this size: take a smaller dataset.image_folder.size"
        )
    problems: list[str] = []
    with beside(raw / "images.npy") as draft:
        images = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
        for row, path in enumerate(_files(found)):
            try:
                images[row] = decode(path, config.input, config.inverted)
            except InputError as error:
                problems.append(str(error))
            if (row + 1) % 100 == 0 or row + 1 == total:
                progress("pictures", row + 1, total)
        images.flush()
        if problems:
            raise FetchError("\n".join(told(problems)))
    listed = [{"class": c.name, "count": len(c.files), "split": c.split} for c in found]
    write_json(raw / "classes.json", {"folder": source.resolve().name, "classes": listed})


def _files(found: list[Class]) -> Iterator[Path]:
    for c in found:
        yield from c.files


def prepare(raw: Path, config: Config, seed: int) -> Images:
    """The images as `fetch` wrote them, memory-mapped."""
    for file in ("images.npy", "classes.json"):
        if not (raw / file).is_file():
            raise FetchError(f"{raw / file} is missing: run the stage download first")
    content = json.loads((raw / "classes.json").read_text(encoding="utf-8"))
    listed = content["classes"]
    names = [c["class"] for c in listed]
    splits = divided(names, config, seed)
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
