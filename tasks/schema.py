"""conf/params.schema.json: what params.yaml may hold, for editors that complete and check YAML by a JSON schema.

`python -m tasks.schema` writes it anew from the code, and from the comments of params.yaml.
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
    """commented: a params.yaml whose comments describe its keys"""
    from ruamel.yaml import YAML

    text = YAML().load(commented.read_text(encoding="utf-8"))
    sections: dict[str, Any] = {
        "device": {"enum": list(params.DEVICES)},
        "processes": {"type": ["integer", "null"], "minimum": 1},
    }
    for section, (_, beside) in params.CHOICES.items():
        known = params.registry(section)
        kinds = {
            "seed": {"type": "integer", "minimum": 0},
            "source": {"type": "string", "minLength": 1},
        }
        properties = {"name": {"enum": sorted(known)}} | {key: kinds[key] for key in beside}
        properties |= {name: _section(params.settings_type(known[name])) for name in sorted(known)}
        sections[section] = {
            "type": "object",
            "properties": properties,
            "required": ["name"],
            "additionalProperties": False,
        }
    sections |= {section: _section(params.plain_type(section)) for section in params.PLAIN}
    defaults = preset.defaults()
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
    """A section's own schema; the sections in it stand where they are used, and it may be left empty."""
    found = TypeAdapter(type_).json_schema()
    return _plain(found, found.get("$defs", {}))


def _plain(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_plain(value, definitions) for value in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _plain(definitions[part["$ref"].rsplit("/", 1)[1]], definitions)
    kept = {
        key: {name: _plain(value, definitions) for name, value in inner.items()}
        if key == "properties"
        else _plain(inner, definitions)
        for key, inner in part.items()
        if key not in ("title", "description", "default", "$defs", "required")
    }
    if kept.get("type") == "object":
        kept["type"] = ["object", "null"]
    return kept


def _describe(part: dict[str, Any], key: str, parent: Any, defaults: dict[str, Any]) -> None:
    """Descriptions from comments, defaults from the code."""
    said = parent.ca.items.get(key) if hasattr(parent, "ca") else None
    if said and said[2]:
        part["description"] = said[2].value.split("\n")[0].lstrip("# ").strip()
    if not isinstance(defaults.get(key), dict):
        part["default"] = list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]
        return
    for name, inner in part.get("properties", {}).items():
        _describe(inner, name, parent[key], defaults[key])


def main() -> None:
    stage.run(lambda: write_json(ROOT / FILE, schema(ROOT / "params.yaml")))


if __name__ == "__main__":
    main()
