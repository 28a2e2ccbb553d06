"""conf/params.schema.json, by which editors complete and check params.yaml.

`python -m tasks.schema` writes it from the types of the code and the comments of params.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks import params, preset
from tasks.runtime import stage
from tasks.runtime.files import ROOT, write_json

FILE = "conf/params.schema.json"


def schema(commented: Path) -> dict[str, Any]:
    """Return the JSON schema of params.yaml.

    Args:
        commented: A params.yaml whose comments describe its keys.
    """
    from ruamel.yaml import YAML

    text = YAML().load(commented.read_text(encoding="utf-8"))
    sections: dict[str, Any] = _section(params.General)["properties"]
    for section, choice in params.SELECTABLE_SECTIONS.items():
        known = choice.registry
        properties = {"name": {"enum": sorted(known)}} | _section(choice.keys)["properties"]
        properties |= {name: _section(known[name]) for name in sorted(known)}
        sections[section] = {
            "type": "object",
            "properties": properties,
            "required": ["name"],
            "additionalProperties": False,
        }
    sections |= {
        section: _section(params.import_section_type(section)) for section in params.FIXED_SECTIONS
    }
    defaults = preset.default_params()
    for key, value in sections.items():
        _describe(value, key, text, defaults)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
    }


def _section(type_: Any) -> dict[str, Any]:
    """Return the schema of a section, which may be empty, with the sections in it inlined."""
    found = TypeAdapter(type_).json_schema()
    schema: dict[str, Any] = _inline(found, found.get("$defs", {}))
    return schema


def _inline(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inline(value, definitions) for value in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inline(definitions[part["$ref"].rsplit("/", 1)[1]], definitions)
    kept = {
        key: {name: _inline(value, definitions) for name, value in inner.items()}
        if key == "properties"
        else _inline(inner, definitions)
        for key, inner in part.items()
        if key not in ("title", "description", "default", "$defs", "required")
    }
    if kept.get("type") == "object":
        kept["type"] = ["object", "null"]
    return kept


def _describe(part: dict[str, Any], key: str, parent: Any, defaults: dict[str, Any]) -> None:
    """Add descriptions, which are comments, and the defaults of the code."""
    comment = parent.ca.items.get(key) if hasattr(parent, "ca") else None
    if comment and comment[2]:
        part["description"] = comment[2].value.split("\n")[0].lstrip("# ").strip()
    if not isinstance(defaults.get(key), dict):
        part["default"] = list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]
        return
    for name, inner in part.get("properties", {}).items():
        _describe(inner, name, parent[key], defaults[key])


def main() -> None:
    stage.run(lambda: write_json(ROOT / FILE, schema(ROOT / "params.yaml")))


if __name__ == "__main__":
    main()
