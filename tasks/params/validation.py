"""Sections as instances of their types, and what is wrong with them in one sentence per mistake."""

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


def read_section(path: str, type_: Any, raw: Any, faults: list[str]) -> Any:
    """Make an instance of a section's type.

    Args:
        path: The dotted name of the section; '' for the keys outside of all sections.
        type_: A dataclass.
        raw: The section as plain values; None is an empty section.
        faults: The mistakes are appended to it.

    Returns:
        The instance; None if there are mistakes.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        faults.append(f"{path} is {raw!r}; it must be a section of keys")
        return None
    # An empty section within it has its defaults too.
    raw = {
        key: value for key, value in raw.items() if value is not None or not _is_section(type_, key)
    }
    try:
        # Through JSON: strict about types, yet a list is a tuple and 1 is a float.
        return TypeAdapter(type_).validate_json(json.dumps(raw), strict=True)
    except TypeError as error:
        faults.append(f"{path} holds a value that is no number, text, list or section ({error})")
    except ValidationError as error:
        faults += dict.fromkeys(_describe(path, fault, _keys(type_)) for fault in error.errors())
    return None


def read_choice(section: str, raw: Any, faults: list[str]) -> Choice | None:
    """Make an instance of a section that names an entry of a registry.

    The arguments are those of `read_section`.
    """
    choice = SELECTABLE_SECTIONS[section]
    names = sorted(choice.registry)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        faults.append(f"{section}.name is missing; it must be one of {', '.join(names)}")
        return None
    known = ["name", *_key_names(choice), *names]
    faults += [
        f"unknown key {section}.{key}{did_you_mean(str(key), known)}"
        for key in raw
        if key not in known
    ]
    given = {key: raw[key] for key in _key_names(choice) if key in raw}
    keys = read_section(section, choice.keys, given, faults) if given else choice.keys()
    name = raw["name"]
    try:
        entry = choice.registry[name]
    except ConfigError as error:
        faults.append(f"{section}.{error}")
        return None
    config = read_section(f"{section}.{name}", entry, raw.get(name), faults)
    return choice.type(name, config, **asdict(keys)) if keys is not None else None


def check_other_choices(raw: dict[str, Any], faults: list[str]) -> None:
    """Check the sections of entries that are not chosen."""
    for section, choice in SELECTABLE_SECTIONS.items():
        present = raw.get(section)
        if not isinstance(present, dict):
            continue
        for name in choice.registry:
            if name in present and name != present.get("name"):
                read_section(f"{section}.{name}", choice.registry[name], present[name], faults)


def _key_names(choice: ChoiceSection) -> list[str]:
    return [field.name for field in fields(choice.keys)]


def _is_section(type_: Any, key: str) -> bool:
    return any(field.name == key and is_dataclass(field.default_factory) for field in fields(type_))


def _keys(type_: Any) -> list[str]:
    """Return the keys of a section and of the sections in it."""
    schema = TypeAdapter(type_).json_schema()
    return [
        key
        for part in (schema, *schema.get("$defs", {}).values())
        for key in part.get("properties", {})
    ]


def _describe(path: str, fault: Any, known: list[str]) -> str:
    """Describe an error of pydantic in one sentence."""
    kind, value = fault["type"], fault["input"]
    unknown = kind == "unexpected_keyword_argument"
    # In a list the place is a position. A union adds the name of the branch, which is no key.
    names = [
        str(part) for part in fault["loc"] if unknown or isinstance(part, int) or part in known
    ]
    where = ".".join([path, *names] if path else names)
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return f"{where}.{inner}" if where else str(inner)
    if unknown:
        return f"unknown key {where}{did_you_mean(str(fault['loc'][-1]), known)}"
    if kind == "literal_error":
        return f"{where} is {value!r}; it must be {fault['ctx']['expected'].replace(chr(39), '')}"
    if kind in BOUNDS:
        key, requirement = BOUNDS[kind]
        bound = fault["ctx"][key]
        number = str(bound) if isinstance(bound, int) else f"{bound:g}"
        return f"{where} is {value!r}; it {requirement} {number}"
    if kind in REQUIREMENTS:
        return f"{where} is {value!r}; it {REQUIREMENTS[kind]}"
    return f"{where} is {value!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
