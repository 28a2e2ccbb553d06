"""Class tables: the published classes of a dataset, with their numbers of examples and splits."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from episodic.datasets.base import FetchError

__all__ = ["ClassRow", "read_class_table", "require_counts"]

SPLIT_TABLES = Path(__file__).parent.parent / "splits"


class ClassRow(NamedTuple):
    """A row of a class table.

    Attributes:
        name: Name of the class.
        split: Its published split; '' if there is none.
        examples: Number of its examples.
    """

    name: str
    split: str
    examples: int


def read_class_table(name: str) -> list[ClassRow]:
    """Return the classes of a dataset, sorted by name."""
    with (SPLIT_TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return [
            ClassRow(row["class"], row.get("split", ""), int(row["count"]))
            for row in csv.DictReader(file)
        ]


def require_counts(found: dict[str, int], classes: Sequence[ClassRow], where: str) -> None:
    """Raise FetchError unless every class has its number of examples."""
    wrong = [c for c in classes if found.get(c.name, 0) != c.examples]
    if wrong:
        first = wrong[0]
        raise FetchError(
            f"{where} is incomplete or another dataset: the number of examples is not the "
            f"published one for {len(wrong)} of {len(classes)} classes; {first.name} has "
            f"{found.get(first.name, 0)} instead of {first.examples}"
        )
