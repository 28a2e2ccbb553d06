"""Diverged episodes are counted and written as null; the summary of a run reports them."""

from __future__ import annotations

import pytest
from stages import set_param
from support import ROOT

from episodic.training.loop import DivergedError
from tasks import params, preset, summary
from tasks.download import run as download
from tasks.episodes import run as episodes
from tasks.evaluate import run as evaluate
from tasks.runtime.files import read_json
from tasks.train import run as train


def sinusoid(folder, **values: str) -> params.Settings:
    """Settings of a few iterations on sine waves, with raw and prepared data in `folder`."""
    file = folder / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset("sinusoid", file)
    for key, value in {"iterations": "4", "validation": "20", "test": "30", **values}.items():
        set_param(folder, key, value)
    settings = params.parse(params.read_yaml(file))
    download(settings, folder / "raw")
    episodes(settings, folder / "raw", folder / "prepared")
    return settings


def stages(settings: params.Settings, folder) -> dict:
    train(settings, folder / "prepared", folder / "model", folder / "history", folder / "run.json")
    evaluate(
        settings, folder / "prepared", folder / "model", folder / "scores", folder / "metrics.json"
    )
    return read_json(folder / "metrics.json")


def test_regression_metrics_are_as_documented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = stages(sinusoid(tmp_path), tmp_path)
    figures = {"mse", "mse_ci95", "mse_median", "diverged"}
    assert set(metrics) == figures | {
        "loss",
        "episodes",
        "steps",
        "before",
        "after_1",
        "after_10",
        "baselines",
        "train",
        "ensemble",
        "tasks",
    }
    assert set(metrics["baselines"]) == {"zero", "support_mean", "random_init"}
    assert set(metrics["after_10"]) == figures and "validation_mse" in metrics["train"]
    assert summary.summarize(metrics)[0][0] == "after 1 inner step"


def test_diverged_episodes_are_counted(tmp_path, monkeypatch):
    """At a rate at which three steps, as validation takes, are still finite and ten are not."""
    monkeypatch.chdir(tmp_path)
    metrics = stages(sinusoid(tmp_path, **{"maml.inner_lr": "0.3"}), tmp_path)
    assert metrics["after_10"]["mse"] is None and metrics["after_10"]["diverged"] > 0
    assert all(isinstance(figure, str) for _, figure in summary.summarize(metrics))


def test_training_without_finite_validation_raises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = sinusoid(tmp_path, **{"maml.inner_lr": "1e6"})
    with pytest.raises(DivergedError, match=r"lower inner_lr or train\.meta_lr"):
        train(
            settings,
            tmp_path / "prepared",
            tmp_path / "model",
            tmp_path / "history",
            tmp_path / "run.json",
        )
    assert not (tmp_path / "model").exists()
