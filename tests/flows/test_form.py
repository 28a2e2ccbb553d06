"""What a form of the UI may name: code, data, sweep files and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import git

from flows import form
from flows.experiments.points import apply_changes, ref_name
from tasks import params
from tasks.runtime.stage import StageError
from tasks.schema import build_schema
from tests.flows.toy import ROOT

RAW = params.read_yaml(ROOT / "params.yaml")
FEATURES = "dataset.image_folder.features.path"


def with_own_network() -> dict[str, Any]:
    """The settings of a checkout whose user has a network."""
    own = {"model.module.path": "my_models.Net", "model.module.arguments": {"channels": 16}}
    return apply_changes(RAW, own)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"model.module.path": "os.system"}, "model.module.path"),
        ({"model.module": {"path": "os.system"}}, "model.module.path"),
        ({"model": {"module": {"path": "os.system"}}}, "model.module.path"),
        ({"model.module.arguments": {"command": "true"}}, "model.module.arguments"),
        ({"model.module.arguments.command": "true"}, "model.module.arguments"),
    ],
)
@pytest.mark.parametrize("raw", [RAW, with_own_network(), {}, {"model": None}])
def test_a_form_names_no_code(raw, settings, key):
    with pytest.raises(StageError) as refused:
        form.check_settings(raw, {}, settings)
    assert str(refused.value).splitlines()[0].startswith(f"{key} is ")
    assert (
        str(refused.value)
        .splitlines()[0]
        .endswith(
            "; it names code to run, so set it in params.yaml of the checkout instead of the form"
        )
    )


def test_code_of_the_checkout_can_be_selected():
    raw = with_own_network()
    same = {"model.module.path": "my_models.Net", "model.module.arguments": {"channels": 16}}
    defaults = {"model.module.path": "", "model.module.arguments": {}}
    for preset in ({}, defaults):
        for settings in ({}, {"model.name": "module"}, same, {"model.module.head": "fc"}):
            form.check_settings(raw, preset, settings)
    with pytest.raises(StageError, match=r"^model\.module\.path is ''"):
        form.check_settings(raw, {}, {"model.module.path": ""})


@pytest.mark.parametrize("key", ["dataset.source", FEATURES])
def test_data_of_a_form_is_in_the_checkout_or_has_an_absolute_path(key):
    for path in ("data/own", "photos of 2026/cats", "/home/me/photos", "encoder.safetensors"):
        form.check_settings(RAW, {}, {key: path})
    for path in (
        "..",
        "../photos",
        "data/../../photos",
        ".",
        "./",
        ".git",
        ".dvc/tmp",
        "data/.hidden",
        "http://127.0.0.1:4200/api/health",
        "remote://store/x",
        "s3://bucket/x",
        "file:///etc",
    ):
        with pytest.raises(StageError) as refused:
            form.check_settings(RAW, {}, {key: path})
        assert str(refused.value) == (
            f"{key} is {path!r}; in the form, it must be an absolute path or one inside the"
            " checkout, without .. and hidden folders"
        )
        form.check_settings(apply_changes(RAW, {key: path}), {}, {key: path})


def test_every_text_of_the_settings_is_known():
    """A new setting that is a text could name a file or code. Then flows/form.py must know it."""

    def texts(schema: Any, key: str = "") -> Iterator[str]:
        if isinstance(schema, list):
            for branch in schema:
                yield from texts(branch, key)
        elif isinstance(schema, dict):
            kinds = schema.get("type", ())
            if "enum" not in schema and ("string" in kinds or schema.get("additionalProperties")):
                yield key
            for name, value in schema.get("properties", {}).items():
                yield from texts(value, f"{key}.{name}" if key else name)
            for branches in ("anyOf", "items", "prefixItems"):
                yield from texts(schema.get(branches), key)

    known = set(texts(build_schema(ROOT / "params.yaml")))
    paths = set(form._list_paths(RAW)) & known
    assert {"dataset.source", FEATURES} <= paths
    assert known - paths - set(form.CODE) == {"model.module.head", "report.title", "train.groups"}
    assert set(form.CODE) <= known


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository next to a file of somebody else."""
    (tmp_path / "elsewhere.yaml").write_text("seeds: [0]")
    root = (tmp_path / "root").resolve()
    for name in ("conf/tracked.yaml", "conf/new.yaml", ".prefect/ignored.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("seeds: [0]")
    (root / ".gitignore").write_text(".prefect/\n")
    git(root, "init", "--quiet")
    git(root, "add", "conf/tracked.yaml")
    return root


def test_a_sweep_file_of_a_form_is_in_the_checkout(root, monkeypatch):
    monkeypatch.chdir(root)
    for file in ("conf/tracked.yaml", "conf/new.yaml", f"{root}/conf/new.yaml"):
        form.check_sweep_file(root, file)
    for file in (
        ".prefect/ignored.yaml",
        "../elsewhere.yaml",
        f"{root.parent}/elsewhere.yaml",
        "conf/../../elsewhere.yaml",
        "conf/none.yaml",
        "--others",
        "*",
        "",
    ):
        with pytest.raises(StageError, match="in the form, it must be a file of the checkout"):
            form.check_sweep_file(root, file)


def test_a_comparison_of_a_form_is_a_folder_of_reports(root):
    for out in ("reports/comparison", f"{root}/reports/a/b", "reports/x/../y"):
        form.check_output_folder(root, out)
    for out in ("reports", "", "/tmp/x", "reports/../conf/x", "../x", "reportsx/y"):  # noqa: S108
        with pytest.raises(StageError, match="in the form, it must be a folder in reports, such"):
            form.check_output_folder(root, out)
    (root / "reports").mkdir()
    (root / "reports/link").symlink_to(root / "conf")
    with pytest.raises(StageError, match="must be a folder in reports"):
        form.check_output_folder(root, "reports/link/x")


def test_names_of_a_form_are_names_of_refs_and_folders(tmp_path):
    from flows.train import experiment_name

    git(tmp_path, "init", "--quiet")
    for name in (
        "../../x",
        "/etc/x",
        "--force",
        "a...b",
        "a..b..c",
        "x.lock",
        "-.x.-",
        "a\nb",
        "~",
    ):
        safe = ref_name(name)
        assert "/" not in safe and not safe.startswith(("-", ".")), name
        git(tmp_path, "check-ref-format", f"refs/exps/ab/{safe}")
    assert experiment_name("../../etc/x", "", {}) == "etc-x"
    with pytest.raises(StageError, match="has 201 characters; set name to one of at most 200"):
        experiment_name("x" * 201, "", {})
    with pytest.raises(StageError, match="must contain ASCII letters or digits and not be"):
        experiment_name("..", "", {})
