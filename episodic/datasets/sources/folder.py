"""Data of one's own in folders: a folder for each class, which the seed divides or folders above them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from episodic.datasets.base import SPLITS, FetchError
from episodic.preprocessing.base import InputError, Preprocessor, read_class_folders

NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
T = TypeVar("T")


@dataclass(frozen=True)
class Class(Generic[T]):
    """split: '' where the data does not say it"""

    name: str
    split: str
    examples: list[T]


def of_folders(source: Path, inputs: Preprocessor) -> list[Class[Any]]:
    """The classes of the folder by name; FetchError lists what is wrong with it."""
    inner = {
        path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")
    }
    try:
        if not inner or not inner <= NAMES.keys():
            return [
                Class(name, "", found) for name, found in read_class_folders(source, inputs).items()
            ]
        lacking = [split for split in SPLITS if split not in {NAMES[name] for name in inner}]
        if lacking:
            raise FetchError(
                f"{source} has the folders {', '.join(sorted(inner))} and none for {', '.join(lacking)}: classes are needed for each"
            )
        found = [
            Class(name, NAMES[part], examples)
            for part in sorted(inner)
            for name, examples in read_class_folders(source / part, inputs).items()
        ]
    except InputError as error:
        raise FetchError(str(error)) from error
    names = [c.name for c in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FetchError(
            f"{source}: {', '.join(twice)} lies in several of {', '.join(sorted(inner))}: a class belongs to one of them alone"
        )
    return sorted(found, key=lambda c: c.name)


def divided(names: list[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """The split of each class: at random by the seed, in the proportions of `shares`."""
    order = sorted(
        names, key=lambda name: hashlib.sha256(f"{seed}/division/{name}".encode()).digest()
    )
    ends = np.rint(np.cumsum(shares) * len(names)).astype(int)
    return {
        name: SPLITS[int(np.searchsorted(ends, place, side="right"))]
        for place, name in enumerate(order)
    }


def shares_fault(shares: Sequence[float]) -> str:
    """What three shares must be, '' if they are."""
    good = all(0 < share < 1 for share in shares) and abs(sum(shares) - 1) < 1e-6
    return "" if good else "must be three numbers above 0 that add up to 1"
