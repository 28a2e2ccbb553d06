"""Sentences in files: text files with one sentence per line, and CSV files with labels."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from episodic.preprocessing.base import InputError, shorten_errors

__all__ = [
    "parse_table",
    "read_lines",
    "read_table",
]

COLUMNS = ("text", "label")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file that are not empty.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    lines = _read_text(path).removeprefix("\ufeff").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_table(path: Path | None) -> list[dict[str, str]]:
    """Read a CSV file of labelled sentences; see `parse_table`.

    Args:
        path: The file, or None for standard input.
    """
    if path is None:
        return parse_table(sys.stdin.read(), "standard input")
    return parse_table(_read_text(path), str(path))


def parse_table(content: str, name: str) -> list[dict[str, str]]:
    """Parse a CSV of labelled sentences.

    Args:
        content: The CSV, with the columns `text` and `label`, and possibly others.
        name: The name of the file, for error messages.

    Returns:
        One dictionary per row, from the name of a column to its cell.

    Raises:
        InputError: A column is missing, cells are empty, or there are no rows.
    """
    reader = csv.DictReader(io.StringIO(content.removeprefix("\ufeff")))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
    if missing:
        raise InputError(
            f"{name} has no column {' and '.join(missing)}: its first line must list the columns "
            "text and label"
        )
    rows, errors = [], []
    try:
        for row in reader:
            empty = [column for column in COLUMNS if not (row[column] or "").strip()]
            if empty:
                errors.append(f"{name}, line {reader.line_num}: {' and '.join(empty)} is empty")
            rows.append(
                {
                    column: (cell or "").strip()
                    for column, cell in row.items()
                    if isinstance(column, str) and isinstance(cell, str | None)
                }
            )
    except csv.Error as error:
        errors.append(f"{name}, line {reader.line_num}: {error}")
    if errors:
        raise InputError("\n".join(shorten_errors(errors)))
    if not rows:
        raise InputError(f"{name} has no rows: specify at least one sentence with its label")
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
