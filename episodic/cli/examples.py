"""Examples of the user: files, folders, tables and standard input."""

from __future__ import annotations

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


def list_examples(names: Sequence[str], inputs: Preprocessor) -> Iterator[Any]:
    """List the examples of files and folders; `-` reads names or sentences from standard input."""
    for name in names:
        if name == STDIN:
            lines = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
            if inputs.example_name == "sentence":
                yield from lines
                continue
        else:
            lines = [name]
        for path in map(Path, lines):
            if not path.is_dir():
                yield from inputs.examples_in_file(path)
                continue
            for folder in [path, *sorted(p for p in path.rglob("*") if p.is_dir())]:
                yield from inputs.examples_in_folder(folder)


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
