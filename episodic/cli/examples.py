"""Examples of the user: files, folders, tables and standard input."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episodic.cli.progress import ProgressBar

if TYPE_CHECKING:
    from episodic.preprocessing.base import Preprocessor

__all__ = ["check_labels", "encode_examples", "list_examples", "read_labelled_examples"]

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


def check_labels(examples: Sequence[Any], labels: Sequence[str]) -> None:
    """Check that no example has two labels. Copies of a file are the same example.

    Args:
        examples: Files or sentences.
        labels: The label of each.

    Raises:
        InputError: An example has. The message has one line per example.
    """
    from episodic.preprocessing.base import InputError, shorten_errors

    first: dict[Any, int] = {}
    errors = []
    for i, example in enumerate(examples):
        is_file = isinstance(example, Path)
        content = hashlib.sha256(example.read_bytes()).digest() if is_file else example
        j = first.setdefault(content, i)
        if labels[j] != labels[i]:
            copy = f", which {examples[j]} is a copy of" if is_file else ""
            errors.append(
                f"{example}{copy}: it is an example of {labels[j]!r} and of {labels[i]!r}: correct"
                " a label, or leave it out"
            )
    if errors:
        raise InputError("\n".join(shorten_errors(errors)))


def list_examples(names: Sequence[str], inputs: Preprocessor) -> Iterator[Any]:
    """List the examples of files and folders; `-` reads names or sentences from standard input.

    The examples of a CSV file are those of its column `file`, or `text` for sentences.

    Args:
        names: Names of files and folders.
        inputs: The preprocessing of the model.

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
            if path.suffix.lower() == ".csv":
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
