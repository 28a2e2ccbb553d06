"""The command `episodic`, as users run it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import episodic
from episodic.cli import app
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.test_few_shot import folder_of
from tests.support import ROOT

NAMES = ["-dash", "two words", "ärger", "d", "e"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A trained model, and images of five classes: 3 to adapt to and 10 to classify."""
    folder = tmp_path_factory.mktemp("place")
    folder_of("protonet", folder / "run", theta=trained("protonet").theta)
    images = sampler("test").examples[-100:]
    for c, name in enumerate(NAMES):
        for subset, numbers in (("support", range(3)), ("query", range(3, 13))):
            (folder / subset / name).mkdir(parents=True)
            for i in numbers:
                Image.fromarray(255 - images[20 * c + i, 0].numpy()).save(
                    folder / subset / name / f"{i}.png"
                )
    call(folder, "adapt", "run", "support", "-o", "adapted")
    return folder


def call(folder: Path, *args: str, code: int = 0, stdin: str = "") -> str:
    """Standard output of a command; of one that fails, its standard error."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        ended = CliRunner().invoke(app, list(args), input=stdin)
    finally:
        os.chdir(before)
    assert ended.exit_code == code, ended.output
    if code == 1:
        assert (
            all(line.startswith("error: ") for line in ended.stderr.splitlines())
            and not ended.stdout
        )
    return ended.stderr if code else ended.stdout


def test_adapt_and_predict(workspace):
    files = sorted(str(p.relative_to(workspace)) for p in (workspace / "query").rglob("*.png"))
    stdout = call(workspace, "predict", "adapted", *files)
    assert [line.split("  ")[0] for line in stdout.splitlines()] == files
    expected = episodic.load_adapted(workspace / "adapted").predict([workspace / f for f in files])
    right = 0
    for line, file, label in zip(stdout.splitlines(), files, expected, strict=True):
        assert f"  {label} " in line and line.endswith(" %")
        right += Path(file).parent.name == label
    assert right >= 25, "of 50; chance gives 10"


def test_json_csv_folders_and_standard_input(workspace):
    rows = [
        json.loads(line)
        for line in call(workspace, "predict", "adapted", "query", "--json").splitlines()
    ]
    assert len(rows) == 50 and all(
        sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows
    )
    assert all(
        max(row["probabilities"], key=row["probabilities"].get) == row["label"] for row in rows
    )
    table = list(
        csv.DictReader(io.StringIO(call(workspace, "predict", "adapted", "query/ärger", "--csv")))
    )
    assert len(table) == 10 and list(table[0]) == ["file", "label", *sorted(NAMES)]
    named = call(
        workspace,
        "predict",
        "adapted",
        "-",
        "--json",
        stdin="query/ärger/3.png\n\nquery/two words/4.png\n",
    )
    assert [json.loads(line)["file"] for line in named.splitlines()] == [
        "query/ärger/3.png",
        "query/two words/4.png",
    ]
    dash = call(workspace, "predict", "adapted", "--", "query/-dash/3.png")
    assert "-dash" in dash


def test_a_transductive_model_says_that_predictions_depend_on_each_other(workspace, tmp_path):
    """On standard error, so that standard output is the same for all models."""
    folder_of("bd_cspn", tmp_path / "run")
    support, query = str(workspace / "support"), str(workspace / "query")
    call(tmp_path, "adapt", "run", support, "-o", "adapted")
    for model in ("run", "adapted"):
        assert "inference   transductive: a prediction depends" in call(tmp_path, "info", model)
    ended = CliRunner().invoke(app, ["predict", str(tmp_path / "adapted"), query])
    assert ended.stderr == (
        "note: bd_cspn uses all 50 examples together (transductive inference): predictions depend"
        " on what is asked together\n"
    )
    assert len(ended.stdout.splitlines()) == 50
    one = next(path for path in sorted((workspace / "query").rglob("*")) if path.is_file())
    note, warning = (
        CliRunner()
        .invoke(app, ["predict", str(tmp_path / "adapted"), str(one)])
        .stderr.splitlines()
    )
    assert note.startswith("note: bd_cspn uses all examples of a call together")
    assert warning.startswith(
        "warning: transductive inference needs more examples than classes (5): "
    )
    error = call(tmp_path, "export", "adapted", "model.onnx", code=1)
    assert "predictions of bd_cspn depend on the other examples" in error
    ended = CliRunner().invoke(app, ["predict", str(workspace / "adapted"), query])
    assert ended.stderr == ""


def test_info_describes_the_model(workspace, tmp_path):
    stdout = call(workspace, "info", "run")
    for texts in (
        "protonet",
        "conv4",
        "image, 1 x 28 x 28, dark ink on light paper",
        "trained on  glyphs\n",
        "tested on   5-way 1-shot episodes",
    ):
        assert texts in stdout
    assert "adapted to  -dash, d, e, two words, ärger" in call(workspace, "info", "adapted")
    assert "transductive" not in stdout and "model card" not in stdout
    shutil.copytree(workspace / "run", tmp_path / "run")
    (tmp_path / "run/README.md").touch()
    assert "model card  run/README.md" in call(tmp_path, "info", "run")
    assert call(workspace, "--version").strip() == episodic.__version__


def test_evaluate_is_that_of_the_library(workspace):
    result = json.loads(
        call(
            workspace,
            "evaluate",
            "run",
            "query",
            "--shots",
            "2",
            "--queries",
            "3",
            "--episodes",
            "20",
            "--seed",
            "3",
            "--json",
        )
    )
    model = episodic.load(workspace / "run")
    files = sorted((workspace / "query").rglob("*.png"))
    expected = model.evaluate(
        files, [p.parent.name for p in files], shots=2, queries=3, episodes=20, seed=3
    )
    assert result == expected.summary and expected.scores.shape == (20,)
    assert "on 20 5-way 2-shot episodes, 3 queries per class (chance: 20.0 %)" in call(
        workspace, "evaluate", "run", "query", "--shots", "2", "--queries", "3", "--episodes", "20"
    )


def test_evaluate_on_unbalanced_query_sets(workspace, tmp_path):
    args = ("query", "--shots", "2", "--queries", "3", "--episodes", "20", "--query-balance", "0.5")
    result = json.loads(call(workspace, "evaluate", "run", *args, "--json"))
    model = episodic.load(workspace / "run")
    files = sorted((workspace / "query").rglob("*.png"))
    expected = model.evaluate(
        files,
        [p.parent.name for p in files],
        shots=2,
        queries=3,
        episodes=20,
        query_balance=0.5,
    )
    assert result == expected.summary
    assert (result["query_balance"], result["transductive_inference"]) == (0.5, False)
    assert "on 20 5-way 2-shot episodes, 15 queries, unbalanced (Dirichlet 0.5) (chance: " in call(
        workspace, "evaluate", "run", *args
    )
    folder_of("bd_cspn", tmp_path / "run")
    transductive = str(tmp_path / "run")
    words = "unbalanced (Dirichlet 0.5), transductive inference on unbalanced query sets (chance"
    assert words in call(workspace, "evaluate", transductive, *args)
    balanced = call(workspace, "evaluate", transductive, *args[:-2])
    assert "3 queries per class, transductive inference on balanced query sets" in balanced
    summary = json.loads(call(workspace, "evaluate", transductive, *args[:-2], "--json"))
    assert (summary["query_balance"], summary["transductive_inference"]) == (None, True)


def test_export_by_the_ending(workspace):
    assert call(workspace, "export", "adapted", "model.pt2").startswith("model.pt2: ")
    assert (workspace / "model.pt2").stat().st_size > 10_000
    assert "ends in neither .onnx nor .pt2" in call(
        workspace, "export", "adapted", "model.bin", code=1
    )
    assert "adapt the model to a task first" in call(
        workspace, "export", "run", "model.onnx", code=1
    )


def test_errors_are_one_line_and_leave_no_output(workspace, tmp_path):
    for args, message in (
        (("adapt", "run", "nowhere", "-o", "x"), "nowhere does not exist"),
        (
            ("adapt", "nowhere", "support", "-o", "x"),
            "nowhere does not exist: specify a folder such as models/run",
        ),
        (("adapt", "run", "support/d", "-o", "x"), "has no folders, only 3 images"),
        (("adapt", "adapted", "support", "-o", "x"), "is already adapted to a task"),
        (
            ("adapt", "run", "support", "-o", "query"),
            "exists and is not an adapted model; choose another folder",
        ),
        (
            ("adapt", "run", "support", "-o", "x", "--steps", "-3"),
            "steps is -3; it must be between 0 and",
        ),
        (
            ("adapt", "run", "support", "-o", "x", "--device", "tpu"),
            "must be one of auto, cpu, cuda, mps",
        ),
        (("predict", "run", "a.png"), "is not adapted to a task yet"),
        (("predict", "adapted", "a.png", "run/config.json"), "a.png cannot be read: No such file"),
        (("predict", "adapted", "run"), "there are no examples to predict"),
        (("predict", "adapted", "query", "--json", "--csv"), "are mutually exclusive"),
        (
            ("evaluate", "run", "query", "--ways", "6"),
            "an episode has 6 classes, and there are only 5",
        ),
        (("evaluate", "run", "query", "--shots", "6"), "needs 6 + 5 examples, and '-dash' has 10"),
        (
            ("evaluate", "run", "query", "--query-balance", "0"),
            "query_balance is 0; it must be greater than 0 and at most 1e+06",
        ),
        (
            ("evaluate", "run", "query", "--query-balance", "2", "--shots", "5"),
            "query_balance is 2, but the smallest class has 10 examples, 5 + 5, which leaves no",
        ),
        (("info", "query"), "contains no model, because it has no config.json: specify a folder"),
    ):
        assert message in call(workspace, *args, code=1), args
    assert not (workspace / "x").exists() and len(list((workspace / "query").iterdir())) == 5
    call(workspace, "adapt", "run", "support", code=2)
    call(workspace, "adapt", "run", "support", "-o", "adapted")  # an adapted model may be replaced


def test_all_broken_images_are_reported_at_once(workspace, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "empty.png").touch()
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / name / "good.png")
    assert (
        call(workspace, "adapt", "run", str(tmp_path), "-o", "x", code=1).count(
            "is empty (0 bytes): replace or remove it"
        )
        == 2
    )


def test_as_a_program(workspace):
    """A real process: exit codes, a closed pipe, and help without loading torch."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, *args], cwd=workspace, env=environment, capture_output=True, text=True
        )

    assert run("-m", "episodic").returncode == 2
    helped = run("-X", "importtime", "-m", "episodic", "--help")
    assert helped.returncode == 0 and "adapt" in helped.stdout and " torch" not in helped.stderr
    failed = run("-m", "episodic", "predict", "adapted", "none.png")
    assert (
        failed.returncode == 1
        and failed.stderr == "error: none.png cannot be read: No such file or directory\n"
        and not failed.stdout
    )
    piped = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m episodic predict adapted query | head -1; echo done"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert piped.stdout.endswith("done\n") and "Traceback" not in piped.stderr
    blocked = (
        "import runpy, sys; sys.modules['typer'] = None; sys.argv = ['episodic'];"
        " runpy.run_module('episodic', run_name='__main__')"
    )
    lacking = run("-c", blocked)
    assert lacking.returncode == 1 and "pip install 'episodic-learning[use]'" in lacking.stderr
