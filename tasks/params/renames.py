"""Keys of params.yaml that have a new name: the old one works for one version, with a warning."""

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
"""What dataset.source and encoder paths were where none is used."""


def rename_keys(params: MutableMapping[str, Any]) -> dict[str, str]:
    """Give every key of params.yaml its present name, in place; other keys and comments stay.

    Experiments of earlier versions are comparable with new ones after it.

    Returns:
        The present name of each key that was renamed.

    Raises:
        StageError: A key is given by both names.
    """
    renamed = {}
    for path, new in RENAMED.items():
        *sections, old = path.split(".")
        section = _find_section(params, sections)
        if section is None or old not in section:
            continue
        now = ".".join([*sections, new])
        if new in section:
            raise StageError(_both_given(path, now))
        _rename_key(section, old, new)
        renamed[path] = now
    for section, key, default in _find_paths(params):
        if section.get(key) == UNUSED_PATH:
            section[key] = default
    return renamed


def rename_dotted(changes: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, str]]:
    """Give params by dotted key their present names.

    Returns:
        The params, and the present name of each key that was renamed.

    Raises:
        StageError: A key is given by both names.
    """
    present: dict[str, Value] = {}
    renamed = {}
    for key, value in changes.items():
        now = key
        if key in RENAMED:
            now = ".".join([*key.split(".")[:-1], RENAMED[key]])
            renamed[key] = now
            if now in changes:
                raise StageError(_both_given(key, now))
        present[now] = value
    return present, renamed


def list_rename_warnings(renamed: Mapping[str, str], source: str) -> list[str]:
    """Return a sentence for every key that was renamed."""
    return [f"{source}: {old} is now called {new}: rename it" for old, new in renamed.items()]


def warn_about_renamed_keys(renamed: Mapping[str, str], source: str) -> None:
    """Print a line to standard error for every key that was renamed."""
    for sentence in list_rename_warnings(renamed, source):
        print(f"warning: {sentence}", file=sys.stderr)


def _both_given(old: str, new: str) -> str:
    return f"{old} is now called {new}, and both are given: remove {old}"


def _find_section(params: Any, path: list[str]) -> MutableMapping[str, Any] | None:
    for name in path:
        params = params.get(name) if isinstance(params, MutableMapping) else None
    return params if isinstance(params, MutableMapping) else None


def _rename_key(section: MutableMapping[str, Any], old: str, new: str) -> None:
    for key in list(section):  # all are inserted anew, to keep their order
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
