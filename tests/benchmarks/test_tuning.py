"""The record of tuning: variants of a recipe at equal training time, scored by validation."""

from __future__ import annotations

import csv

import pandas as pd
import pytest

from benchmarks.methods import tuning
from benchmarks.methods.cell import read_settings
from tasks.runtime.stage import StageError


def test_changes_are_values_of_existing_parameters():
    values = {"algorithm": {"name": "maml", "maml": {"inner_lr": 0.4}}, "device": "auto"}
    tuning.change(values, "algorithm.maml.inner_lr=0.1 device=cpu")
    assert values == {"algorithm": {"name": "maml", "maml": {"inner_lr": 0.1}}, "device": "cpu"}
    for wrong in ("algorithm.maml.lr=1", "algorithm.anil.inner_lr=1", "device.x=1", "seed"):
        with pytest.raises(StageError, match="is no parameter"):
            tuning.change(values, wrong)


def test_the_record_shows_what_a_recipe_changes():
    values = read_settings("5w1s", "maml")
    assert "train.meta_batch=16" in tuning.describe_recipe(values)
    tuning.change(values, "train.meta_batch=32 train.iterations=7 model.conv4.filters=8")
    recipe = tuning.describe_recipe(values).split()
    assert "model.conv4.filters=8" in recipe
    assert not [item for item in recipe if item.startswith(("train.meta_batch", "train.iter"))]


def test_variants_train_equally_long(tmp_path, monkeypatch):
    """The iterations follow from the time of an iteration, not that of starting."""
    overhead, trained = 30.0, []

    def run(values, iterations, points, prepared):
        seconds = 0.2 * values["train"]["meta_batch"] / 16
        trained.append((iterations, points))
        history = pd.DataFrame({"accuracy": [0.7, 0.9, 0.8], "accuracy_ci95": [0.03, 0.02, 0.01]})
        return history, overhead + iterations * seconds

    monkeypatch.setattr(tuning, "run_training", run)
    monkeypatch.setattr(tuning, "RECORD", tmp_path / "tuning.csv")
    for changes, iterations in (("", 300), ("train.meta_batch=8", 600)):
        row = tuning.try_variant("maml", "5w1s", changes, 1.0, tmp_path)
        tuning.append(row)
        assert trained[-1] == (iterations, 8)
    with (tmp_path / "tuning.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["validation"] == second["validation"] == "0.9000"
    assert first["ci95"] == "0.0200" and first["minutes"] == "1"
    assert "train.meta_batch=16" in first["recipe"] and "train.meta_batch=8" in second["recipe"]
