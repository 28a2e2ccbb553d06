"""dvc.yaml says what the stages really use."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from support import ROOT, checkout

from tasks import params, preset
from tests.tasks.test_params import own

PROGRAM = """
import json, runpy, sys
module, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
from tasks.runtime.files import ROOT, code_files
print("FILES" + json.dumps([f.relative_to(ROOT).as_posix() for f in code_files()]))
"""
STAGES = ("download", "episodes", "train", "evaluate", "report")


def dvc_yaml(settings) -> dict:
    """dvc.yaml with its `${...}` filled in."""
    text = (ROOT / "dvc.yaml").read_text()
    for section in ("dataset", "model", "algorithm"):
        text = text.replace(f"${{{section}.name}}", settings[section]["name"])
    text = text.replace("${dataset.source}", settings["dataset"]["source"])
    for name in ("clinc150", "text_folder"):
        text = text.replace(
            f"${{dataset.{name}.features.path}}", settings["dataset"][name]["features"]["path"]
        )
    assert "${" not in text
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def only_names(path) -> bool:
    """Whether a package's `__init__` computes nothing, so that no stage need run again when it changes: docstring, imports, lazy
    public names."""
    if path.name != "__init__.py":
        return False
    body = ast.parse(path.read_text()).body
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    return all(
        isinstance(node, kinds) or getattr(node, "name", "") in ("__getattr__", "__dir__")
        for node in body
    )


def test_every_stage_has_at_most_15_lines_of_code_deps():
    for name, stage in dvc_yaml(params.read_yaml(ROOT / "params.yaml"))["stages"].items():
        code = [
            dep
            for dep in stage["deps"]
            if dep == "run-stage" or dep.startswith(("episodic/", "tasks/"))
        ]
        assert len(code) <= 15, (
            f"{name} lists {len(code)} code deps: list packages instead of files"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "mlp", "algorithm": "fomaml"},
        {"algorithm": "protonet"},
        {"algorithm": "finetune"},
        {"preset": "sinusoid"},
        {"preset": "image_folder"},
        {"preset": "text_folder"},
        {"preset": "clinc150"},
        {"preset": "movielens"},
        {"preset": "ratings"},
    ],
    ids=[
        "maml",
        "fomaml",
        "protonet",
        "finetune",
        "sinusoid",
        "image_folder",
        "text_folder",
        "clinc150",
        "movielens",
        "ratings",
    ],
)
def test_code_deps_are_what_a_stage_imports(tmp_path, changes, request):
    if changes.get("preset") == "clinc150":
        request.getfixturevalue("mirror")  # or it is skipped, and says so
    root = checkout(tmp_path / "checkout")
    preset.apply("tiny", root / "params.yaml")
    if "preset" in changes:
        preset.apply(changes["preset"], root / "params.yaml", own(changes["preset"], tmp_path))
        text = (root / "params.yaml").read_text()
        text = re.sub(
            r"iterations: \d+", "iterations: 2", re.sub(r"(validation|test): \d+", r"\1: 10", text)
        )
        (root / "params.yaml").write_text(text)
    for section in ("model", "algorithm"):
        if section in changes:
            text = (root / "params.yaml").read_text()
            (root / "params.yaml").write_text(
                re.sub(rf"({section}:\n  name: )\w+", rf"\g<1>{changes[section]}", text)
            )
    stages = dvc_yaml(params.read_yaml(root / "params.yaml"))["stages"]
    assert tuple(stages) == STAGES
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for name, stage in stages.items():
        words = shlex.split(stage["cmd"])
        assert words[:3] == ["sh", "run-stage", f"tasks.{name}"]
        answer = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"tasks.{name}", *words[3:]],
            cwd=root,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert answer.returncode == 0, answer.stderr
        used = set(json.loads(re.search("^FILES(.*)$", answer.stdout, re.M)[1])) | {
            f"tasks/{name}.py"
        }
        named = {dep for dep in stage["deps"] if dep.endswith((".py", ".cpp"))}
        folders = tuple(f"{dep}/" for dep in stage["deps"] if (root / dep).is_dir())
        used = {
            file for file in used if not file.startswith(folders) and not only_names(root / file)
        }
        assert used - named == set(), (
            f"the stage {name} imports code that dvc.yaml does not list: add the file, or its package, to the deps of {name}"
        )
        extra = named - used
        assert extra == set(), (
            f"dvc.yaml lists code that the stage {name} does not import: remove it from the deps of {name}"
        )


def test_deps_and_params_exist():
    settings = params.read_yaml(ROOT / "params.yaml")
    stages = dvc_yaml(settings)["stages"]
    made = {
        out if isinstance(out, str) else next(iter(out))
        for s in stages.values()
        for out in s["outs"] + s.get("metrics", [])
    }
    for stage in stages.values():
        for dep in stage["deps"]:
            assert dep in made or (ROOT / dep).exists(), dep
        for key in stage["params"]:
            place = settings
            for part in key.split("."):
                assert part in place, key
                place = place[part]


@pytest.mark.parametrize("name", ["clinc150", "text_folder"])
def test_a_changed_encoder_runs_again_what_uses_it(name):
    settings = params.read_yaml(ROOT / "params.yaml")
    settings["dataset"][name]["features"]["path"] = "/some/encoder"
    users = [
        stage
        for stage, body in dvc_yaml(settings)["stages"].items()
        if "/some/encoder" in body["deps"]
    ]
    assert users == ["episodes"], "the stage that reads it; those after it have its embeddings"


def test_every_param_is_read_by_a_stage():
    settings = params.read_yaml(ROOT / "params.yaml")
    read = {key for stage in dvc_yaml(settings)["stages"].values() for key in stage["params"]}

    def leaves(tree, path=""):
        for key, value in tree.items():
            yield from (
                leaves(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]
            )

    chosen = {
        f"{section}.{settings[section]['name']}." for section in ("dataset", "model", "algorithm")
    }
    for leaf in leaves(settings):
        if leaf == "processes":
            continue  # how many share the work changes no result (tests/tasks/test_distributed.py), so that nothing need run again
        section, *rest = leaf.split(".")
        if (
            section in ("dataset", "model", "algorithm")
            and len(rest) > 1
            and not any(leaf.startswith(prefix) for prefix in chosen)
        ):
            continue  # the section of another name
        assert any(leaf == key or leaf.startswith(f"{key}.") for key in read), (
            f"no stage of dvc.yaml depends on {leaf}"
        )
