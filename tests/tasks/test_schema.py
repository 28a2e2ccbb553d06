"""conf/params.schema.json agrees with the code."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
from support import ROOT

from tasks import params, preset, schema
from tasks.params import read_yaml

KNOWN = json.loads((ROOT / schema.FILE).read_text())


def test_the_schema_file_matches_the_code():
    assert json.loads(json.dumps(schema.build_schema(ROOT / "params.yaml"))) == KNOWN, (
        "run python -m tasks.schema"
    )
    assert (
        (ROOT / "params.yaml")
        .read_text()
        .startswith(f"# yaml-language-server: $schema={schema.FILE}\n")
    )


def test_every_key_is_described_and_has_the_default_of_the_code():
    def check(node, value, path):
        if isinstance(value, dict):
            assert node.get("properties", {}).keys() == value.keys(), path
            for name, inner in value.items():
                check(node["properties"][name], inner, f"{path}.{name}")
        else:
            assert node["description"] and node["default"] == value, path

    check(KNOWN, json.loads(json.dumps(params.default_params())), "params")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in preset.list_presets()
        if name not in ("image_folder", "own_photos", "ratings", "text_folder")
    ],
)
def test_presets_are_valid(tmp_path, name):
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset(name, file)
    jsonschema.validate(read_yaml(file), KNOWN, jsonschema.Draft202012Validator)


def test_schema_rejects_errors():
    good = read_yaml(ROOT / "params.yaml")
    jsonschema.validate(good | {"report": None}, KNOWN)
    for path, value in (
        (("train", "iteration"), 3),
        (("train", "iterations"), "many"),
        (("dataset", "name"), "glyph"),
        (("devise",), 1),
    ):
        bad = copy.deepcopy(good)
        section = bad
        for name in path[:-1]:
            section = section[name]
        section[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, KNOWN)
