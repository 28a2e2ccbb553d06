"""Examples of the user: files, folders, tables and standard input."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episodic.cli.progress import ProgressBar

if TYPE_CHECKING:
    from episodic.preprocessing.base import Preprocessor

__all__ = ["encode_examples", "list_examples", "read_labelled_examples"]

STDIN = "-"


def read_labelled_examples(path: Path, inputs: Preprocessor) -> tuple[list[Any], list[str]]:
    """Read examples and labels from a folder with one subfolder per class or from a table.

    Raises:
        InputError: Examples cannot be read. The message has one line per error.
    """
    from episodic.preprocessing.base import read_class_folders

    if inputs.example_name == "sentence" and (str(path) == STDIN or path.is_file()):
        from episodic.preprocessing.sentences.files import read_table

        rows = read_table(None if str(path) == STDIN else path)
        return [row["text"] for row in rows], [row["label"] for row in rows]
    by_class = read_class_folders(path, inputs)
    return [example for examples in by_class.values() for example in examples], [
        name for name, examples in by_class.items() for _ in examples
    ]


def list_examples(
    names: Sequence[str], inputs: Preprocessor, read_csv: bool = False
) -> Iterator[Any]:
    """List the examples of files and folders; `-` reads names or sentences from standard input.

    Args:
        names: Names of files and folders.
        inputs: The preprocessing of the model.
        read_csv: Whether the examples of a CSV file are those of its column `file`, or `text`.

    Raises:
        InputError: A file cannot be read, or a CSV file lacks the column.
    """
    for name in names:
        if name == STDIN:
            lines = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
            if inputs.example_name == "sentence":
                yield from lines
                continue
        else:
            lines = [name]
        for path in map(Path, lines):
            if read_csv and path.suffix.lower() == ".csv":
                yield from _read_column(path, inputs)
            elif not path.is_dir():
                yield from inputs.examples_in_file(path)
            else:
                for folder in [path, *sorted(p for p in path.rglob("*") if p.is_dir())]:
                    yield from inputs.examples_in_folder(folder)


def _read_column(path: Path, inputs: Preprocessor) -> Iterator[Any]:
    """Read the sentences or file names of a CSV file."""
    from episodic.preprocessing.base import InputError

    is_text = inputs.example_name == "sentence"
    column = "text" if is_text else "file"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if column not in (reader.fieldnames or []):
                raise InputError(
                    f"{path} has no column {column}: its first line must name the columns"
                )
            cells = [(row[column] or "").strip() for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error})") from error
    yield from (cell if is_text else Path(cell) for cell in cells if cell)


def encode_examples(examples: Sequence[Any], inputs: Preprocessor) -> Any:
    """Preprocess examples, with a progress bar for many images.

    Raises:
        InputError: Examples cannot be read. The message has one line per error.
    """
    from episodic.preprocessing.image import ImagePreprocessor

    if not isinstance(inputs, ImagePreprocessor):
        return inputs(examples)
    with ProgressBar("images") as bar:
        return inputs(examples, lambda what, done, total: bar.update(done, total))
