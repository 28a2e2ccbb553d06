"""Renamed keys of params.yaml. Old names are accepted for one version, with a warning."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

from tasks.params.settings import USER_DATA
from tasks.runtime.stage import StageError

Value = TypeVar("Value")

RENAMED = {
    "train.hard": "hard_episode_fraction",
    "dataset.image_folder.shares": "split_fractions",
    "dataset.text_folder.shares": "split_fractions",
    "dataset.movielens.shares": "split_fractions",
    "dataset.movielens.least": "min_ratings",
    "dataset.ratings.shares": "split_fractions",
    "dataset.ratings.least": "min_ratings",
}
"""The new name of each key, in the same section."""

ENCODER = "data/encoder"
"""The default of encoder paths, `episodic.preprocessing.text.ENCODER_FOLDER`.

That module is imported only by stages that prepare sentences.
"""

UNUSED_PATH = "data/README.md"
"""Default of dataset.source and of encoder paths in earlier versions; it means no data."""


def rename_keys(params: MutableMapping[str, Any]) -> dict[str, str]:
    """Rename the keys of params.yaml to their current names, in place.

    Other keys and comments are preserved. This makes experiments of earlier versions comparable
    with new ones.

    Returns:
        The current name of each renamed key.

    Raises:
        StageError: Both names of a key are present.
    """
    renamed = {}
    for path, new in RENAMED.items():
        *sections, old = path.split(".")
        section = _find_section(params, sections)
        if section is None or old not in section:
            continue
        current = ".".join([*sections, new])
        if new in section:
            raise StageError(_describe_duplicate(path, current))
        _rename_key(section, old, new)
        renamed[path] = current
    for section, key, default in _find_paths(params):
        if section.get(key) == UNUSED_PATH:
            section[key] = default
    return renamed


def rename_dotted(changes: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, str]]:
    """Rename params, given by dotted key, to their current names.

    Returns:
        The params, and the current name of each renamed key.

    Raises:
        StageError: Both names of a key are present.
    """
    result: dict[str, Value] = {}
    renamed = {}
    for key, value in changes.items():
        current = key
        if key in RENAMED:
            current = ".".join([*key.split(".")[:-1], RENAMED[key]])
            renamed[key] = current
            if current in changes:
                raise StageError(_describe_duplicate(key, current))
        result[current] = value
    return result, renamed


def list_rename_warnings(renamed: Mapping[str, str], source: str) -> list[str]:
    """List a warning for each renamed key."""
    return [
        f"{source}: {old} has been renamed to {new}; use the new name"
        for old, new in renamed.items()
    ]


def warn_about_renamed_keys(renamed: Mapping[str, str], source: str) -> None:
    """Print a warning to standard error for each renamed key."""
    for sentence in list_rename_warnings(renamed, source):
        print(f"warning: {sentence}", file=sys.stderr)


def _describe_duplicate(old: str, new: str) -> str:
    return f"{old} has been renamed to {new}, and both are present; remove {old}"


def _find_section(params: Any, path: list[str]) -> MutableMapping[str, Any] | None:
    for name in path:
        params = params.get(name) if isinstance(params, MutableMapping) else None
    return params if isinstance(params, MutableMapping) else None


def _rename_key(section: MutableMapping[str, Any], old: str, new: str) -> None:
    for key in list(section):  # all are reinserted, to keep their order
        value = section.pop(key)
        section[new if key == old else key] = value
    comments = getattr(section, "ca", None)
    if comments and old in comments.items:
        comments.items[new] = comments.items.pop(old)


def _find_paths(params: Any) -> Iterator[tuple[MutableMapping[str, Any], str, str]]:
    """Yield the section, the name and the default of every path to the user's own files."""
    dataset = _find_section(params, ["dataset"])
    if dataset is None:
        return
    yield dataset, "source", USER_DATA
    for name in dataset:
        features = _find_section(dataset, [name, "features"])
        if features is not None:
            yield features, "path", ENCODER
