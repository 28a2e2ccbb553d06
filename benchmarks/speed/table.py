"""Writing results to CSV files, and parsing of arguments shared by benchmarks."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from episodic.core.files import atomic_path


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with the same keys to a CSV file."""
    with atomic_path(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def parse_folder(text: str) -> Path:
    """Parse a folder, creating it if necessary (a type for argparse)."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not a folder and cannot be created ({error.strerror})"
        ) from error
    return Path(text)


def parse_positive(text: str) -> int:
    """Parse a positive integer (a type for argparse)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return int(text)
