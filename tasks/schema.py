"""Generate conf/params.schema.json, with which editors complete and validate params.yaml.

`python -m tasks.schema` builds it from the types in the code and the comments of params.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks import params
from tasks.runtime import stage
from tasks.runtime.files import ROOT, write_json

FILE = "conf/params.schema.json"


def build_schema(commented: Path) -> dict[str, Any]:
    """Build the JSON schema of params.yaml.

    Args:
        commented: A params.yaml whose comments describe its keys.
    """
    from ruamel.yaml import YAML

    text = YAML().load(commented.read_text(encoding="utf-8"))
    sections: dict[str, Any] = _section(params.General)["properties"]
    for section, choice in params.SELECTABLE_SECTIONS.items():
        entries = choice.registry
        properties = {"name": {"enum": sorted(entries)}} | _section(choice.keys)["properties"]
        properties |= {name: _section(entries[name]) for name in sorted(entries)}
        sections[section] = {
            "type": "object",
            "properties": properties,
            "required": ["name"],
            "additionalProperties": False,
        }
    sections |= {
        section: _section(params.import_section_type(section)) for section in params.FIXED_SECTIONS
    }
    defaults = params.default_params()
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
    """Return the schema of a section, which may be empty, with nested sections inlined."""
    raw = TypeAdapter(type_).json_schema()
    schema: dict[str, Any] = _inline(raw, raw.get("$defs", {}))
    return schema


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(value, definitions) for value in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    result = {
        key: {name: _inline(value, definitions) for name, value in inner.items()}
        if key == "properties"
        else _inline(inner, definitions)
        for key, inner in node.items()
        if key not in ("title", "description", "default", "$defs", "required")
    }
    if result.get("type") == "object":
        result["type"] = ["object", "null"]
    return result


def _describe(
    node: dict[str, Any], key: str, parent: Any, defaults: dict[str, Any], inherited: str = ""
) -> None:
    """Add descriptions, taken from comments, and the defaults of the code.

    The keys of a section on one line, `{a: 1, b: 2}`, inherit the comment of the line.
    """
    comment = parent.ca.items.get(key) if hasattr(parent, "ca") else None
    if comment and comment[2]:
        node["description"] = comment[2].value.split("\n")[0].lstrip("# ").strip()
    elif inherited:
        node["description"] = inherited
    if not isinstance(defaults.get(key), dict):
        node["default"] = list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]
        return
    for name, inner in node.get("properties", {}).items():
        on_one_line = parent[key].fa.flow_style()
        line_comment = node.get("description", "") if on_one_line else ""
        _describe(inner, name, parent[key], defaults[key], line_comment)


def main() -> None:
    stage.run(lambda: write_json(ROOT / FILE, build_schema(ROOT / "params.yaml")))


if __name__ == "__main__":
    main()
