"""The benchmark of people: its baseline, its guard against seen drawings, its table."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import lake_runs
import numpy as np
import pandas as pd
import pytest

import episodic
from benchmarks import people
from episodic.core.errors import UserError
from episodic.datasets.sources.one_shot_runs import Trial, read_runs
from episodic.preprocessing.images.reading import decode_image
from tasks.prepared import FORMAT
from tasks.runtime.files import read_json, write_json
from tests.episodic.inference.test_few_shot import folder_of

RUNS = 2


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return lake_runs.draw_files(RUNS)


@pytest.fixture
def trials(files, tmp_path, monkeypatch) -> list[Trial]:
    lake_runs.accept(monkeypatch, files)
    return read_runs(lake_runs.write_archive(tmp_path / "omniglot" / "all_runs.zip", files))


@pytest.fixture
def model(tmp_path) -> Path:
    folder = folder_of("protonet", tmp_path / "model")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"data_digest": "d1"})
    return folder


def write_prepared(folder: Path, images: dict[str, list[np.ndarray]]) -> Path:
    """Write prepared data with one class of the given images per split."""
    folder.mkdir()
    np.save(folder / "images.npy", np.concatenate([np.stack(part) for part in images.values()]))
    table = {
        "class": [f"of {split}" for split in images],
        "group": [""] * len(images),
        "split": list(images),
        "count": [len(part) for part in images.values()],
    }
    pd.DataFrame(table).to_parquet(folder / "classes.parquet", index=False)
    write_json(
        folder / "meta.json",
        {"format": FORMAT, "input": [1, 28, 28], "kind": "classification", "data_digest": "d1"},
    )
    return folder


def draw_others(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, 28, 28), np.uint8) for _ in range(count)]


def shrink(drawings: list[bytes]) -> list[np.ndarray]:
    return [decode_image(png, (1, 28, 28), inverted=True) for png in drawings]


def test_the_baseline_is_the_modified_hausdorff_distance(trials):
    a, b = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [0.0, 1.0], [6.0, 8.0]])
    # From a: 0 and 18 ** .5 (to (0, 1)); from b: 0, 1 and 5.
    assert people.hausdorff_distance(a, b) == pytest.approx(max(18**0.5 / 2, 6 / 3))
    assert people.hausdorff_distance(b, a) == people.hausdorff_distance(a, b)
    ink = people.read_ink(trials[0].support_x[0])
    assert np.abs(ink.mean(0)).max() < 1e-9 and 50 < len(ink) < 105 * 105 / 2
    errors = people.baseline_errors(trials)
    assert errors.shape == (RUNS,) and 0 < errors.mean() < 0.8, "chance is .95"
    same = [trial._replace(query_x=trial.support_x, query_y=trial.support_y) for trial in trials]
    assert (people.baseline_errors(same) == 0).all()


def test_drawings_that_a_model_has_seen_are_counted_by_split(trials, model, tmp_path):
    drawings = shrink([*trials[0].support_x, *trials[1].query_x])
    data = write_prepared(
        tmp_path / "prepared",
        {
            "train": [*draw_others(5), *drawings[:3]],
            "validation": [*drawings[3:5], *draw_others(1)],
            "test": drawings[5:],
        },
    )
    learner = episodic.load(model)
    assert people.count_seen(learner, trials, data) == {"train": 3, "validation": 2, "test": 35}
    with pytest.raises(
        UserError,
        match=rf"^{model} has seen drawings of the runs: 3 \(train\) and 2 \(validation\) of 80; "
        "train a model with dataset.omniglot.split: lake$",
    ):
        people.measure([model], trials, data)


def test_data_of_another_run_is_an_error(trials, model, tmp_path):
    data = write_prepared(tmp_path / "prepared", {"train": draw_others(2), "test": draw_others(2)})
    write_json(data / "meta.json", read_json(data / "meta.json") | {"data_digest": "d2"})
    with pytest.raises(UserError, match=f"^{data} is not the data that the model was trained on"):
        people.measure([model], trials, data)


def test_the_command_prints_and_writes_the_errors(trials, model, tmp_path, monkeypatch, capsys):
    drawings = shrink([png for trial in trials for png in (*trial.support_x, *trial.query_x)])
    data = write_prepared(tmp_path / "prepared", {"train": draw_others(2), "test": drawings})
    out = tmp_path / "errors.csv"
    monkeypatch.setenv("EPISODIC_MIRROR", str(tmp_path))
    command = ["people", str(model), "--data", str(data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    people.main()
    printed = capsys.readouterr()
    assert printed.err == (
        f"{model}: none of the 80 drawings is in its training or validation data, 80 are in its "
        "test data\n"
    )
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["run01", "run02"] * 2
    errors = [float(row["error"]) for row in rows if row["model"] == str(model)]
    expected = people.answer_trials(episodic.load(model), trials).errors
    assert errors == pytest.approx(expected.tolist())
    assert f"| {model} | {100 * expected.mean():.1f} % ±" in printed.out
    assert "| people | 4.5 % | Lake et al. 2015" in printed.out


def test_errors_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["people", "--runs", str(tmp_path / "missing.zip")])
    with pytest.raises(SystemExit, match=r"^error: .*missing.zip does not exist; put the offic"):
        people.main()


@pytest.mark.slow
def test_the_real_baseline_is_that_of_the_authors(mirror):
    """Their demonstration program states an error of 38.8 %: 155 of 400 drawings."""
    path = mirror / "omniglot" / "all_runs.zip"
    if not path.exists():
        pytest.skip("the mirror has no omniglot/all_runs.zip")
    assert people.baseline_errors(read_runs(path)).mean() == pytest.approx(155 / 400)
