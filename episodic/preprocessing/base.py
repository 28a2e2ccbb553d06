"""Preprocessors: how the data of a user becomes the input of a model, one module per kind.

A module of the registry has a function `build(input, **options) -> Preprocessor`, where `input` is
the shape of one example and `options` are the other keys of the section `inputs` of a model's
config.json. Training data passes through the same preprocessor as the data of a model in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from episodic.core.errors import UserError
from episodic.core.registry import PREPROCESSORS

__all__ = [
    "InputError",
    "Preprocessor",
    "build",
    "read_class_folders",
    "require_sequence",
    "shorten_errors",
]


class InputError(UserError, ValueError):
    """Invalid input data. The message has one sentence per error."""


class Preprocessor(Protocol):
    """Turns the data of a user into examples."""

    example_name: str
    """Name of one example in messages, such as `image`."""

    def __call__(self, x: Any) -> Tensor:
        """Return examples `(n, *input)`.

        Args:
            x: A list of the user's data, or an array of examples that are preprocessed already.

        Raises:
            InputError: Some of `x` is invalid.
        """

    def examples_in_folder(self, folder: Path) -> list[Any]:
        """List the examples in a folder by name, without those in its subfolders.

        Raises:
            InputError: Examples of this kind are not read from files.
        """

    def examples_in_file(self, path: Path) -> list[Any]:
        """List the examples in a file.

        Raises:
            InputError: Examples of this kind are not read from files.
        """


def build(config: dict[str, Any]) -> Preprocessor:
    """Make the preprocessor that a model's config.json describes.

    Args:
        config: The content of config.json, with the keys `input` and `inputs`.
    """
    options = dict(config["inputs"])
    preprocessor: Preprocessor = PREPROCESSORS[options.pop("kind")](
        tuple(config["input"]), **options
    )
    return preprocessor


def read_class_folders(
    folder: Path, preprocessor: Preprocessor, min_examples: int = 1
) -> dict[str, list[Any]]:
    """List the examples of each class of a folder with one subfolder per class.

    Hidden folders and files that are not examples are ignored.

    Args:
        folder: The folder.
        preprocessor: Decides which files are examples.
        min_examples: Examples that every class must have.

    Returns:
        The examples by the name of their class.

    Raises:
        InputError: There are no classes, or some have too few examples. All of them are listed.
    """
    name = preprocessor.example_name
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist: specify a folder with a folder of {name}s per class"
        )
    classes = {
        path.name: preprocessor.examples_in_folder(path)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not classes:
        loose = len(preprocessor.examples_in_folder(folder))
        note = f", only {loose} {name}s" if loose else ""
        raise InputError(
            f"{folder} has no folders{note}: put the {name}s of each class in a folder with "
            "its name"
        )
    small = [
        f"{folder / label} has {len(examples)} {name}{'' if len(examples) == 1 else 's'}"
        f"{_describe_other_files(folder / label, examples)}: a class needs at least {min_examples}"
        for label, examples in classes.items()
        if len(examples) < min_examples
    ]
    if small:
        raise InputError("\n".join(shorten_errors(small)))
    return classes


def _describe_other_files(folder: Path, examples: Sequence[Any]) -> str:
    """Name the types of the files in a folder without examples, such as `.heic`."""
    if examples:
        return ""
    files = (path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    suffixes = sorted({path.suffix.lower() for path in files} - {""})
    return f", only files of type {', '.join(suffixes)}" if suffixes else ""


MAX_ERRORS = 20
"""Problems of one kind that a message lists."""


def shorten_errors(errors: Sequence[str]) -> list[str]:
    """Shorten a list of errors to MAX_ERRORS, adding the number of omitted ones."""
    rest = len(errors) - MAX_ERRORS
    return [*errors[:MAX_ERRORS], *([f"and {rest} more"] if rest > 0 else [])]


def require_sequence(x: Any, example_name: str) -> Sequence[Any]:
    """Return `x` if it is a sequence of examples.

    Raises:
        InputError: `x` is a single example or not a sequence.
    """
    if (
        isinstance(x, (str, bytes, Path, dict))
        or not hasattr(x, "__len__")
        or not hasattr(x, "__getitem__")
    ):
        raise InputError(
            f"x is a {type(x).__name__}, not a list: put a single {example_name} in a list"
        )
    sequence: Sequence[Any] = x
    return sequence
