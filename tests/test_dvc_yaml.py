"""The dependencies in dvc.yaml are those that the stages use."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil

import pytest
import warm
from stages import ENVIRONMENT, set_param
from support import ROOT

from tasks import params, preset
from tests.tasks.test_params import write_source

PROGRAM = """
import json, runpy, sys
import vl_convert
module, sys.argv = sys.argv[1], sys.argv[1:]
vl_convert.javascript_bundle = lambda: ""
vl_convert.vegalite_to_svg = lambda *_, **__: ""
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
from tasks.runtime.files import ROOT, list_code_files
print("FILES" + json.dumps([f.relative_to(ROOT).as_posix() for f in list_code_files()]))
"""
"""Runs a stage and prints its code files. Charts stay empty: to draw them takes two seconds."""

ENCODED = {
    "aircraft": ["episodes"],
    "cifar_fs": ["episodes"],
    "clinc150": ["episodes"],
    "cub": ["episodes"],
    "dtd": ["episodes"],
    "eurosat": ["episodes"],
    "fc100": ["episodes"],
    "full_omniglot": ["episodes"],
    "fungi": ["episodes"],
    "glyphs": ["episodes"],
    "image_folder": ["download", "episodes"],
    "mini_imagenet": ["episodes"],
    "news": ["episodes"],
    "newsgroups": ["episodes"],
    "omniglot": ["episodes"],
    "quickdraw": ["episodes"],
    "text_folder": ["episodes"],
    "tiered_imagenet": ["episodes"],
    "traffic_signs": ["episodes"],
    "vgg_flower": ["episodes"],
}
"""Datasets with `features.path`, and the stages that read the encoder there."""

STAGES = ("download", "episodes", "train", "evaluate", "report")


def dvc_yaml(settings) -> dict:
    """dvc.yaml with its `${...}` filled in."""
    text = (ROOT / "dvc.yaml").read_text()
    for section in ("dataset", "model", "algorithm"):
        text = text.replace(f"${{{section}.name}}", settings[section]["name"])
    text = text.replace("${dataset.source}", settings["dataset"]["source"])
    for name in ENCODED:
        text = text.replace(
            f"${{dataset.{name}.features.path}}", settings["dataset"][name]["features"]["path"]
        )
    assert "${" not in text
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def only_names(path) -> bool:
    """Whether a package's `__init__` only declares names: docstring, imports, lazy public names.

    Such a file computes nothing, so no stage has to run again when it changes.
    """
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
        code = [dep for dep in stage["deps"] if dep.startswith(("episodic/", "tasks/"))]
        assert len(code) <= 15, (
            f"{name} lists {len(code)} code deps: list packages instead of files"
        )


CONFIGURATIONS = {
    "maml": {},
    "fomaml": {"model": "mlp", "algorithm": "fomaml"},
    "protonet": {"algorithm": "protonet"},
    "finetune": {"algorithm": "finetune"},
    "sinusoid": {"preset": "sinusoid"},
    "image_folder": {"preset": "image_folder"},
    "own_photos": {"preset": "own_photos"},
    "text_folder": {"preset": "text_folder"},
    "text_folder, selected": {"preset": "text_folder", "set": {"train.classes": "6"}},
    "clinc150": {"preset": "clinc150"},
    "movielens": {"preset": "movielens"},
    "ratings": {"preset": "ratings"},
}
SHORT = {"iterations": "2", "validation": "10", "test": "10", "conv4.filters": "4"}


def configure(folder, changes) -> None:
    """Write params.yaml of a short run."""
    file = folder / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    preset.apply_preset("tiny", file)
    if "preset" in changes:
        preset.apply_preset(changes["preset"], file, write_source(changes["preset"], folder))
        for key, value in SHORT.items():
            set_param(folder, key, value)
    for section in ("model", "algorithm"):
        if section in changes:
            set_param(folder, f"{section}.name", changes[section])
    for key, value in changes.get("set", {}).items():
        set_param(folder, key, value)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_code_deps_are_what_a_stage_imports(tmp_path, name, request):
    if name == "clinc150":
        request.getfixturevalue("mirror")  # or it is skipped, and says so
    configure(tmp_path, CONFIGURATIONS[name])
    for folder in ("own", "encoder"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    stages = dvc_yaml(params.read_yaml(tmp_path / "params.yaml"))["stages"]
    assert tuple(stages) == STAGES
    for stage, body in stages.items():
        args = shlex.split(body["cmd"])
        assert args[:3] == ["sh", "run-stage", f"tasks.{stage}"]
        result = warm.run(["-c", PROGRAM, f"tasks.{stage}", *args[3:]], tmp_path, ENVIRONMENT)
        assert result.returncode == 0, result.stderr
        files = json.loads(re.search("^FILES(.*)$", result.stdout, re.M)[1])
        imported = {*files, f"tasks/{stage}.py"}
        listed = {dep for dep in body["deps"] if dep.endswith((".py", ".cpp"))}
        folders = tuple(f"{dep}/" for dep in body["deps"] if (ROOT / dep).is_dir())
        imported = {
            file
            for file in imported
            if not file.startswith(folders) and not only_names(ROOT / file)
        }
        assert imported - listed == set(), (
            f"the stage {stage} imports code that dvc.yaml does not list: "
            f"add the file, or its package, to the deps of {stage}"
        )
        assert listed - imported == set(), (
            f"dvc.yaml lists code that the stage {stage} does not import: "
            f"remove it from the deps of {stage}"
        )


def test_deps_and_params_exist():
    settings = params.read_yaml(ROOT / "params.yaml")
    stages = dvc_yaml(settings)["stages"]
    outputs = {
        out if isinstance(out, str) else next(iter(out))
        for s in stages.values()
        for out in s["outs"] + s.get("metrics", [])
    }
    for stage in stages.values():
        for dep in stage["deps"]:
            assert dep in outputs or (ROOT / dep).exists(), dep
        for key in stage["params"]:
            node = settings
            for name in key.split("."):
                assert name in node, key
                node = node[name]


@pytest.mark.parametrize("name", ENCODED)
def test_a_changed_encoder_runs_again_what_uses_it(name):
    settings = params.read_yaml(ROOT / "params.yaml")
    settings["dataset"][name]["features"]["path"] = "/some/encoder"
    users = [
        stage
        for stage, body in dvc_yaml(settings)["stages"].items()
        if "/some/encoder" in body["deps"]
    ]
    assert users == ENCODED[name], "stages after those have its embeddings"


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
            continue  # changes no result: tests/tasks/test_distributed.py
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
