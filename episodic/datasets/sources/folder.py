"""User-provided data in folders: one per class, optionally in one folder per split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from annotated_types import Gt, Lt

from episodic.core.config import require
from episodic.datasets.base import SPLITS, FetchError
from episodic.preprocessing.base import InputError, Preprocessor, read_class_folders

__all__ = [
    "OwnClass",
    "SplitFractions",
    "assign_splits",
    "read_folders",
    "require_fractions",
]

SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""The split of each folder name."""

Fraction = Annotated[float, Gt(0), Lt(1)]
SplitFractions = tuple[Fraction, Fraction, Fraction]
"""The fractions of training, validation and test."""

T = TypeVar("T")


@dataclass(frozen=True)
class OwnClass(Generic[T]):
    """A class of user-provided data.

    Attributes:
        name: Its name.
        split: Its split; '' if the data does not define it.
        examples: Its examples.
    """

    name: str
    split: str
    examples: list[T]


def read_folders(source: Path, preprocessor: Preprocessor) -> list[OwnClass[Any]]:
    """List the classes of a folder by name.

    Raises:
        FetchError: There are no classes, or their splits are invalid.
    """
    inner = {
        path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")
    }
    try:
        if not inner or not inner <= SPLIT_NAMES.keys():
            folders = read_class_folders(source, preprocessor)
            return [OwnClass(name, "", examples) for name, examples in folders.items()]
        missing = [split for split in SPLITS if split not in {SPLIT_NAMES[name] for name in inner}]
        if missing:
            raise FetchError(
                f"{source} has the folders {', '.join(sorted(inner))} and none for "
                f"{', '.join(missing)}: each split needs classes"
            )
        classes = [
            OwnClass(name, SPLIT_NAMES[folder], examples)
            for folder in sorted(inner)
            for name, examples in read_class_folders(source / folder, preprocessor).items()
        ]
    except InputError as error:
        raise FetchError(str(error)) from error
    names = [c.name for c in classes]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise FetchError(
            f"{source}: {', '.join(repeated)} is in several of {', '.join(sorted(inner))}: put "
            "each class into one of them"
        )
    return sorted(classes, key=lambda c: c.name)


def assign_splits(names: list[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Assign each name to a split at random, in these fractions."""
    order = sorted(
        names, key=lambda name: hashlib.sha256(f"{seed}/division/{name}".encode()).digest()
    )
    ends = np.rint(np.cumsum(fractions) * len(names)).astype(int)
    return {
        name: SPLITS[int(np.searchsorted(ends, place, side="right"))]
        for place, name in enumerate(order)
    }


def require_fractions(fractions: Sequence[float]) -> None:
    """Raise ConfigError unless the fractions add up to 1."""
    holds = abs(sum(fractions) - 1) < 1e-6
    require(holds, "split_fractions", list(fractions), "must be three numbers that add up to 1")
