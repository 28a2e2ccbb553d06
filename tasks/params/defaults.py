"""The defaults of all keys as plain values, and changes to them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tasks.params.sections import FIXED_SECTIONS, SELECTABLE_SECTIONS, import_section_type
from tasks.params.settings import General


def default_params() -> dict[str, Any]:
    """Return the default of every key, as plain values."""
    result: dict[str, Any] = asdict(General())
    for section, choice in SELECTABLE_SECTIONS.items():
        entries = {name: asdict(choice.registry[name]()) for name in choice.registry}
        result[section] = {"name": choice.default} | asdict(choice.keys()) | entries
    return result | {section: asdict(import_section_type(section)()) for section in FIXED_SECTIONS}


def merge_into(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Set `values` in nested dicts, in place."""
    for key, value in values.items():
        if isinstance(value, dict):
            merge_into(into.setdefault(key, {}), value)
        else:
            into[key] = value
