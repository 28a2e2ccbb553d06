"""Keys of params.yaml that have a new name: the old one works for one version, with a warning."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

from tasks.params.settings import OWN_DATA
from tasks.runtime.stage import StageError

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
"""The default of encoder paths, `episodic.preprocessing.text.ENCODER_FOLDER`. No stage but those that
prepare sentences imports that module."""

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
            raise StageError(f"{path} is now called {now}, and both are given: remove {path}")
        _rename_key(section, old, new)
        renamed[path] = now
    for section, key, default in _find_paths(params):
        if section.get(key) == UNUSED_PATH:
            section[key] = default
    return renamed


def warn_of_old_names(renamed: dict[str, str], source: str) -> None:
    """Print a line to standard error for every key that was renamed."""
    for old, new in renamed.items():
        print(f"warning: {source}: {old} is now called {new}: rename it", file=sys.stderr)


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
    yield dataset, "source", OWN_DATA
    for name in dataset:
        features = _find_section(dataset, [name, "features"])
        if features is not None:
            yield features, "path", ENCODER
