"""A table of figures as a CSV file, and the arguments that every benchmark takes: checked before anything is measured."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from episodic.core.files import atomic_path


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of the same keys."""
    with atomic_path(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def existing(text: str) -> Path:
    """For argparse: a folder, made if it is not there."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is no folder and cannot be made one ({error.strerror})"
        ) from error
    return Path(text)


def positive(text: str) -> int:
    """For argparse: a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, 1 or more")
    return int(text)
