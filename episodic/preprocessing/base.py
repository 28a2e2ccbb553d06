"""How what a user has becomes what a model sees, one module a kind. A module of the registry has

`build(input, **options) -> Inputs`
    input: shape of one example; options: the rest of the section `inputs` of a model's config.json.

Pictures, sentences and numbers that are prepared for training go the same way, so that a model in use sees what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from episodic.core.errors import UserError
from episodic.core.registry import PREPROCESSORS


class InputError(UserError, ValueError):
    """Something that cannot become an example; a sentence for each thing that is wrong."""


class Inputs(Protocol):
    what: str
    """What an example is, in a word: `picture`."""

    def __call__(self, x: Any) -> Tensor:
        """Examples `(n, *input)`, from a list of what a user has or an array of prepared ones; InputError names what is none."""

    def in_folder(self, folder: Path) -> list[Any]:
        """The examples that lie in a folder, its own folders aside, in the order of their names; InputError where it cannot hold any."""

    def in_file(self, path: Path) -> list[Any]:
        """The examples of one file."""


def build(config: dict[str, Any]) -> Inputs:
    """Of a model's config.json: its `input` and `inputs`."""
    options = dict(config["inputs"])
    return PREPROCESSORS[options.pop("kind")].build(tuple(config["input"]), **options)


def folders(folder: Path, inputs: Inputs, least: int = 1) -> dict[str, list[Any]]:
    """The examples of each class, from a folder with a folder for each; InputError lists all that is wrong with it.

    Hidden folders are left out, and so are files that are no examples. least: examples that a class must have
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}: name one that holds a folder of {inputs.what}s for each class"
        )
    found = {
        path.name: inputs.in_folder(path)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not found:
        loose = (
            f" ({len(own)} {inputs.what}s lie in it loosely)"
            if (own := inputs.in_folder(folder))
            else ""
        )
        raise InputError(
            f"{folder} has no folders{loose}: put the {inputs.what}s of each class in a folder named by the class"
        )
    few = [
        f"{folder / name} has {len(files)} {inputs.what}s: a class needs at least {least}"
        for name, files in found.items()
        if len(files) < least
    ]
    if few:
        raise InputError("\n".join(told(few)))
    return found


TOLD = 20
"""Problems that are told one by one."""


def told(problems: Sequence[str]) -> list[str]:
    """The first of them, and how many more there are."""
    return [
        *problems[:TOLD],
        *([f"and {len(problems) - TOLD} more"] if len(problems) > TOLD else []),
    ]


def listed(x: Any, what: str) -> Sequence[Any]:
    """x as a sequence; InputError for a single thing in the place of several, the usual slip."""
    if (
        isinstance(x, (str, bytes, Path))
        or not (hasattr(x, "__len__") and hasattr(x, "__getitem__"))
        or isinstance(x, dict)
    ):
        raise InputError(f"x is a {type(x).__name__}, not a list: put a single {what} in a list")
    return x
