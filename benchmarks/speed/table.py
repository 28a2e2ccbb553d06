"""Figures as a CSV file, and arguments that every benchmark takes.

Arguments are checked before anything is measured.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from episodic.core.files import atomic_path


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows that have the same keys."""
    with atomic_path(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def existing(text: str) -> Path:
    """A type of argparse: a folder, which is created if need be."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not a folder and cannot be created ({error.strerror})"
        ) from error
    return Path(text)


def positive(text: str) -> int:
    """A type of argparse: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return int(text)
