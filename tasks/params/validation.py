"""Validation of sections against their types; one sentence per error."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from episodic.core.config import ConfigError
from episodic.core.registry import did_you_mean
from tasks.params.sections import SELECTABLE_SECTIONS, ChoiceSection
from tasks.params.settings import Choice

REQUIREMENTS = {
    "dataclass_type": "must be a section of keys",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}
"""The wording of `episodic.core.config` for pydantic's kinds of errors."""


def read_section(path: str, type_: Any, raw: Any, errors: list[str]) -> Any:
    """Build a section from plain values.

    Args:
        path: The dotted name of the section; '' for the keys outside of all sections.
        type_: A dataclass.
        raw: The section as plain values; None is an empty section.
        errors: Errors are appended to this list.

    Returns:
        The instance; None if there are errors.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        errors.append(f"{path} is {raw!r}; it must be a section of keys")
        return None
    # An empty nested section also gets its defaults.
    raw = {
        key: value for key, value in raw.items() if value is not None or not _is_section(type_, key)
    }
    try:
        # Via JSON: strict about types, but accepts a list as a tuple and 1 as a float.
        return TypeAdapter(type_).validate_json(json.dumps(raw), strict=True)
    except TypeError as error:
        errors.append(
            f"{path} contains a value that is not a number, text, list or section ({error})"
        )
    except ValidationError as error:
        known = _list_keys(type_)
        details = [detail for detail in error.errors() if not _is_other_branch(detail, known)]
        errors += dict.fromkeys(_describe(path, detail, known) for detail in details)
    return None


def read_choice(section: str, raw: Any, errors: list[str]) -> Choice | None:
    """Build a section that selects a registry entry by name.

    The arguments are as in `read_section`.
    """
    choice = SELECTABLE_SECTIONS[section]
    names = sorted(choice.registry)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        errors.append(f"{section}.name is missing; it must be one of {', '.join(names)}")
        return None
    known = ["name", *_list_shared_keys(choice), *names]
    errors += [
        f"unknown key {section}.{key}{did_you_mean(str(key), known)}"
        for key in raw
        if key not in known
    ]
    shared = {key: raw[key] for key in _list_shared_keys(choice) if key in raw}
    keys = read_section(section, choice.keys, shared, errors) if shared else choice.keys()
    name = raw["name"]
    try:
        entry = choice.registry[name]
    except ConfigError as error:
        errors.append(f"{section}.{error}")
        return None
    config = read_section(f"{section}.{name}", entry, raw.get(name), errors)
    return choice.type(name, config, **asdict(keys)) if keys is not None else None


def check_other_choices(raw: dict[str, Any], errors: list[str]) -> None:
    """Check the subsections of entries that are not selected."""
    for section, choice in SELECTABLE_SECTIONS.items():
        present = raw.get(section)
        if not isinstance(present, dict):
            continue
        for name in choice.registry:
            if name in present and name != present.get("name"):
                read_section(f"{section}.{name}", choice.registry[name], present[name], errors)


def _list_shared_keys(choice: ChoiceSection) -> list[str]:
    return [field.name for field in fields(choice.keys)]


def _is_section(type_: Any, key: str) -> bool:
    return any(field.name == key and is_dataclass(field.default_factory) for field in fields(type_))


def _list_keys(type_: Any) -> list[str]:
    """Return the keys of a section and of the sections in it."""
    schema = TypeAdapter(type_).json_schema()
    return [
        key
        for definition in (schema, *schema.get("$defs", {}).values())
        for key in definition.get("properties", {})
    ]


def _is_other_branch(detail: Any, known: list[str]) -> bool:
    """Return whether an error is that of the branch of `int | tuple` that was not meant."""
    if detail["loc"] and (isinstance(detail["loc"][-1], int) or detail["loc"][-1] in known):
        return False
    is_list = isinstance(detail["input"], list)
    return detail["type"] == "tuple_type" or (detail["type"].startswith("int_") and is_list)


def _describe(path: str, detail: Any, known: list[str]) -> str:
    """Describe an error of pydantic in one sentence."""
    kind, value = detail["type"], detail["input"]
    unknown = kind == "unexpected_keyword_argument"
    # List items are located by index. A union adds the name of the branch, which is not a key.
    names = [str(key) for key in detail["loc"] if unknown or isinstance(key, int) or key in known]
    where = ".".join([path, *names] if path else names)
    inner = detail.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return f"{where}.{inner}" if where else str(inner)
    if kind == "missing" and isinstance(value, list):
        needed = int(detail["loc"][-1]) + 1
        return f"{where.rpartition('.')[0]} is {value!r}; it must have {needed} items"
    if kind == "too_long" and isinstance(value, list):
        return f"{where} is {value!r}; it must have at most {detail['ctx']['max_length']} items"
    if unknown:
        return f"unknown key {where}{did_you_mean(str(detail['loc'][-1]), known)}"
    if kind == "literal_error":
        return f"{where} is {value!r}; it must be {detail['ctx']['expected'].replace(chr(39), '')}"
    if kind in BOUNDS:
        key, requirement = BOUNDS[kind]
        bound = detail["ctx"][key]
        number = str(bound) if isinstance(bound, int) else f"{bound:g}"
        return f"{where} is {value!r}; it {requirement} {number}"
    if kind in REQUIREMENTS:
        return f"{where} is {value!r}; it {REQUIREMENTS[kind]}"
    return f"{where} is {value!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
