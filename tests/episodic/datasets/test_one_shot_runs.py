"""Lake's 20 runs: the same bytes from every source, the trials as the labels define them."""

from __future__ import annotations

import io
from pathlib import Path

import lake_runs
import numpy as np
import pytest
from PIL import Image

from episodic.datasets.base import FetchError
from episodic.datasets.sources import fetch, one_shot_runs
from episodic.datasets.sources.one_shot_runs import fetch_runs, read_runs


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return lake_runs.draw_files(2)


@pytest.fixture(autouse=True)
def official(files, monkeypatch) -> None:
    lake_runs.accept(monkeypatch, files)
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "run01" / "notes.txt").write_text("the user's own")
    return folder


def fetched(target: Path, **options) -> bytes:
    fetch_runs(target, **options)
    return target.read_bytes()


def test_bytes_do_not_depend_on_the_source(files, server, tmp_path, monkeypatch):
    zipped = lake_runs.write_archive(tmp_path / "a" / "omniglot" / "all_runs.zip", files)
    unpacked = unpack(tmp_path / "b" / "omniglot" / "all_runs", files)
    monkeypatch.setattr(one_shot_runs, "ADDRESS", f"{server.url}/all_runs.zip")
    server.responses = [server.sends(zipped.read_bytes())]
    downloaded = fetched(tmp_path / "download.zip", mirror=tmp_path)
    assert server.paths == ["/all_runs.zip"]
    for name, options in {
        "mirrored zip": {"mirror": tmp_path / "a"},
        "mirrored folder": {"mirror": tmp_path / "b"},
        "own zip": {"source": zipped},
        "own folder": {"source": unpacked},
    }.items():
        assert fetched(tmp_path / f"{name}.zip", **options) == downloaded, name
    assert len(server.paths) == 1, "no other source needs the network"


def test_trials_are_what_the_labels_define(files, tmp_path):
    target = lake_runs.write_archive(tmp_path / "runs.zip", files)
    trials = read_runs(target)
    assert [trial.name for trial in trials] == ["run01", "run02"]
    for trial in trials:
        assert trial.support_y == [f"class{i:02d}" for i in range(1, 21)]
        assert sorted(trial.query_y) == trial.support_y and trial.query_y != trial.support_y
        for i, (label, drawing) in enumerate(zip(trial.support_y, trial.support_x, strict=True)):
            assert drawing == files[f"{trial.name}/training/{label}.png"], i
        lines = files[f"{trial.name}/class_labels.txt"].decode().splitlines()
        for line, label, drawing in zip(lines, trial.query_y, trial.query_x, strict=True):
            item, character = line.split()
            assert drawing == files[item] and character.endswith(f"/{label}.png")
    assert read_runs(unpack(tmp_path / "folder", files)) == trials


def test_other_content_is_rejected(files, server, tmp_path, monkeypatch):
    changed = files | {"run02/test/item03.png": files["run02/test/item04.png"]}
    path = lake_runs.write_archive(tmp_path / "omniglot" / "all_runs.zip", changed)
    message = (
        r"is not Lake's all_runs.zip: its 82 files have the content digest \w{12}\.\.\. where "
        r"\w{12}\.\.\. is expected"
    )
    with pytest.raises(FetchError, match=f"^{path} {message}; put the official archive there$"):
        fetch_runs(tmp_path / "target.zip", mirror=tmp_path)
    with pytest.raises(FetchError, match=f"^{path} {message}$"):
        read_runs(path)
    assert not (tmp_path / "target.zip").exists()
    monkeypatch.setattr(one_shot_runs, "ADDRESS", f"{server.url}/all_runs.zip")
    server.responses = [server.sends(path.read_bytes())]
    remedy = "; connect to the network and run again, or set EPISODIC_MIRROR to a folder that"
    with pytest.raises(FetchError, match=f"^{server.url}/all_runs.zip {message}{remedy}"):
        fetch_runs(tmp_path / "target.zip")


def test_a_missing_path_is_an_error(tmp_path):
    missing = tmp_path / "missing.zip"
    with pytest.raises(FetchError, match=f"^{missing} does not exist; put the official archive"):
        fetch_runs(tmp_path / "target.zip", source=missing)
    with pytest.raises(FetchError, match=f"^{missing} does not exist$"):
        read_runs(missing)


def test_the_real_runs(mirror, monkeypatch):
    """Drawings of 105 x 105 pixels of 20 characters each, dark on light."""
    monkeypatch.undo()
    path = fetch.find_in_mirror(mirror, "omniglot/all_runs.zip", "omniglot/all_runs")
    if path is None:
        pytest.skip("the mirror has no omniglot/all_runs.zip")
    trials = read_runs(path)
    assert [trial.name for trial in trials] == [f"run{i:02d}" for i in range(1, 21)]
    for trial in trials:
        assert len(set(trial.support_x)) == len(set(trial.query_x)) == 20
        assert sorted(trial.query_y) == trial.support_y
        for png in (*trial.support_x, *trial.query_x):
            pixels = np.asarray(Image.open(io.BytesIO(png)))
            assert pixels.shape == (105, 105) and 0.8 < pixels.mean() < 1
