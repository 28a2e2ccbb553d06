"""Nested settings and metrics: dotted keys, and the settings that a run uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dict by dotted key, as in `before.accuracy`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def select_used(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that have an effect.

    A section with a `name` keeps, of its subsections, only the one with that name. The path of an
    encoder's folder is reduced to the folder's name, since the rest depends on the machine.
    """
    used = {}
    for key, section in settings.items():
        if isinstance(section, dict) and "name" in section:
            section = {
                name: value
                for name, value in section.items()
                if not isinstance(value, dict) or name == section["name"]
            }
        used[key] = section
    return _drop_parent_folders(used)


def _drop_parent_folders(tree: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            value = _drop_parent_folders(value)
        elif key == "path" and Path(str(value)).is_absolute():
            value = Path(value).name
        result[key] = value
    return result
