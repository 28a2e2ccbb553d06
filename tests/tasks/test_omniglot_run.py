"""A short training run on the real Omniglot, through the stages."""

from __future__ import annotations

from support import ROOT

from tasks import params, preset
from tasks.download import run as download
from tasks.episodes import run as episodes
from tasks.evaluate import run as evaluate
from tasks.runtime.files import read_json
from tasks.train import run as train


def test_a_hundred_iterations_on_the_real_omniglot(mirror, tmp_path, monkeypatch):
    """Well above chance (20 %) and above nearest class means in pixels (about 47 %).

    The difference exceeds both confidence intervals.
    """
    monkeypatch.chdir(tmp_path)  # the resume checkpoint lies here
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset("omniglot_quick", file)
    text = (
        file.read_text()
        .replace("iterations: 3000", "iterations: 100")
        .replace("rotations: true", "rotations: false")
    )
    file.write_text(
        text.replace("test: 1000", "test: 200")
        .replace("validation: 500", "validation: 50")
        .replace("filters: 64", "filters: 32")
    )
    settings = params.parse(params.read_yaml(file))
    download(settings, tmp_path / "raw", mirror)
    episodes(settings, tmp_path / "raw", tmp_path / "prepared")
    meta = read_json(tmp_path / "prepared/meta.json")
    assert (
        meta["classes"] == {"test": 423, "train": 1100, "validation": 100}
        and meta["protocol"] == "maml split, no rotations"
    )
    train(
        settings,
        tmp_path / "prepared",
        tmp_path / "model",
        tmp_path / "history",
        tmp_path / "run.json",
    )
    evaluate(
        settings,
        tmp_path / "prepared",
        tmp_path / "model",
        tmp_path / "scores",
        tmp_path / "metrics.json",
    )
    metrics = read_json(tmp_path / "metrics.json")
    pixels = metrics["baselines"]["pixel_centroid"]
    assert 0.35 < pixels["accuracy"] < 0.6
    assert (
        metrics["accuracy"] - metrics["accuracy_ci95"]
        > pixels["accuracy"] + pixels["accuracy_ci95"] + 0.1
    )
