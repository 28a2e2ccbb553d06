"""The options --unknown and --coverage of the command line."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import episodic
from episodic.cli import app
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.reliable import reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of

NAMES = ["a", "b c", "d,e"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A model that is adapted to three classes, and queries of these and of two others."""
    folder = tmp_path_factory.mktemp("place")
    folder_of("protonet", folder / "run", theta=trained("protonet").theta)
    set_reliability(folder / "run", reliability("max_softmax", 0.6, 3, 3))
    images = sampler("test").examples[-100:]
    for c, name in enumerate([*NAMES, "other", "another"]):
        for subset, numbers in (("support", range(3)), ("query", range(3, 9))):
            if subset == "query" or name in NAMES:
                (folder / subset / name).mkdir(parents=True)
                for i in numbers:
                    image = Image.fromarray(255 - images[20 * c + i, 0].numpy())
                    image.save(folder / subset / name / f"{i}.png")
    assert run(folder, "adapt", "run", "support", "-o", "adapted").exit_code == 0
    return folder


def run(folder: Path, *args: str) -> Result:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(app, list(args))
    finally:
        os.chdir(before)


def predict(folder: Path, *options: str, adapted: str = "adapted") -> list[str]:
    """The lines of standard output of a command without notes."""
    result = run(folder, "predict", adapted, "query", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def expected(workspace):
    adapted = episodic.load_adapted(workspace / "adapted")
    files = sorted((workspace / "query").rglob("*.png"))
    found = adapted.predict_all(files, unknown=True)
    assert 5 < found.is_unknown.sum() < 25, "of 30"
    assert len({len(labels) for labels in found.find_sets(0.9)}) > 1
    return found


def test_json(workspace, expected):
    rows = [json.loads(line) for line in predict(workspace, "--json", "--unknown", "--coverage=.9")]
    assert list(rows[0]) == ["file", "label", "familiarity", "set", "probabilities"]
    assert [row["label"] for row in rows] == expected.labels.tolist()
    assert [row["set"] for row in rows] == expected.find_sets(0.9)
    assert [row["familiarity"] for row in rows] == pytest.approx(expected.familiarity, abs=1e-6)
    plain = [json.loads(line) for line in predict(workspace, "--json")]
    assert list(plain[0]) == ["file", "label", "probabilities"]
    assert "unknown" not in {row["label"] for row in plain}


def test_csv(workspace, expected):
    lines = predict(workspace, "--csv", "--unknown", "--coverage", "0.8")
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert list(rows[0]) == ["file", "label", "familiarity", "set", *NAMES]
    assert [row["label"] for row in rows] == expected.labels.tolist()
    sets = [row["set"].split("|") if row["set"] else [] for row in rows]
    assert sets == expected.find_sets(0.8)
    for options, names in ((["--coverage", "0.8"], ["set"]), ([], [])):
        header = predict(workspace, "--csv", *options)[0]
        assert header == f'file,label,{"".join(f"{name}," for name in names)}a,b c,"d,e"'


def test_text(workspace, expected):
    """Without the probability of examples that are unknown, which is that of a known class."""
    lines = predict(workspace, "--unknown", "--coverage", "0.9")
    found = zip(lines, expected.labels, expected.find_sets(0.9), strict=True)
    for line, label, labels in found:
        assert f"  {label} " in line
        assert line.endswith(f"  {{{', '.join(labels)}}}")
        assert ("%" in line) == (label != "unknown")
    assert all(line.endswith(" %") for line in predict(workspace))


def test_a_task_of_another_size_has_a_note(workspace, tmp_path):
    """On standard error, and only where it matters."""
    set_reliability(tmp_path / run_copy(workspace, tmp_path), reliability(ways=20, shots=1))
    query = str(workspace / "query")
    for options in ((), ("--unknown",), ("--coverage", "0.9")):
        result = run(tmp_path, "predict", "adapted", query, *options)
        assert result.exit_code == 0
        note = "note: calibrated on 20-way 1-shot episodes; this task has 3 classes with 3 examples"
        assert result.stderr.startswith(note) if options else result.stderr == ""
    result = run(tmp_path, "export", "adapted", "model.pt2", "--unknown")
    assert result.stderr.startswith("note: calibrated on 20-way 1-shot episodes")


def run_copy(workspace: Path, folder: Path) -> str:
    """Copy the adapted model, and return its name."""
    episodic.load_adapted(workspace / "adapted").save(folder / "adapted")
    return "adapted"


def test_info(workspace, tmp_path):
    for model in ("run", "adapted"):
        stdout = run(workspace, "info", model).stdout
        assert (
            "sets        --coverage, for 3-way 3-shot episodes\n"
            "unknown     --unknown by max_softmax, for 3-way 3-shot episodes\n"
        ) in stdout
    set_reliability(tmp_path / run_copy(workspace, tmp_path))
    assert "--coverage" not in run(tmp_path, "info", "adapted").stdout


def test_errors_are_one_line(workspace, tmp_path):
    set_reliability(tmp_path / run_copy(workspace, tmp_path))
    query = str(workspace / "query")
    for command in (
        ("predict", "adapted", query, "--unknown"),
        ("predict", "adapted", query, "--coverage", "0.9"),
        ("export", "adapted", "model.onnx", "--unknown"),
    ):
        result = run(tmp_path, *command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: the model ")
        assert result.stderr.endswith("an earlier version trained it. Train it again\n")
    result = run(workspace, "predict", "adapted", "query", "--coverage", "90")
    assert result.exit_code == 2
    for label in ("unknown", "x|y", "familiarity"):
        support = tmp_path / label / "support"
        for name in ("a", label):
            (support / name).mkdir(parents=True)
            for i in range(3):
                source = workspace / "support" / NAMES[name != "a"] / f"{i}.png"
                (support / name / f"{i}.png").write_bytes(source.read_bytes())
        assert run(workspace, "adapt", "run", str(support), "-o", f"of {label}").exit_code == 0
    result = run(workspace, "predict", "of unknown", "query", "--unknown")
    assert result.stderr.startswith("error: a class has the label 'unknown'")
    result = run(workspace, "predict", "of x|y", "query", "--coverage", "0.9", "--csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the label 'x|y' contains |" in result.stderr
    result = run(workspace, "predict", "of familiarity", "query", "--csv", "--unknown")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'familiarity' is also the name of a column of the CSV table" in result.stderr
    assert run(workspace, "predict", "of familiarity", "query", "--csv").exit_code == 0
    for damage, reason in (
        ([{"ways": 0, "shots": 1}], "reliability.ways is 0; it must be at least 1"),
        ([{"ways": 2, "shots": -1}], "reliability.shots is -1; it must be at least 1"),
        (
            [{"ways": 2, "shots": 1, "sets": {"tasks": 0, "minimum": [0.5] * 50}}],
            "tasks is 0; it must be at least 1",
        ),
        (None, "reliability must be an object with one list per batch-norm mode"),
    ):
        path = tmp_path / "adapted" / "config.json"
        config = json.loads(path.read_text())
        config["reliability"] = [] if damage is None else {"inductive": damage}
        path.write_text(json.dumps(config))
        result = run(tmp_path, "predict", "adapted", query)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr and result.stderr.count("\n") == 1
