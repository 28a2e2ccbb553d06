"""Runs with augmentation and with varied episodes: processes, and what reports state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
import torch
from stages import EVALUATE, TRAIN, prepare_folder, read_outputs, run_stage, set_param

from episodic.data.augmentation import Augmentation, AugmentedSampler
from episodic.data.sampling import ClassSampler
from tasks import params, prepared
from tasks.reports.kit import results
from tasks.reports.run import card
from tasks.reports.run.headline import build_headline
from tasks.runtime.files import read_json

AUGMENTATION = {"crop": "[0.5, 1.0]", "brightness": "0.2"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with the outputs of a run without augmentation."""
    folder = prepare_folder(tmp_path_factory.mktemp("plain"), meta_batch="4", shard="1")
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    return folder


def run_all(folder, processes: int) -> dict[str, bytes]:
    set_param(folder, "processes", str(processes))
    run_stage(folder, "train", *TRAIN)
    assert read_json(folder / "run.json")["processes"] == processes
    run_stage(folder, "evaluate", *EVALUATE)
    scores = ("metrics.json", "scores/episodes.parquet", "scores/answers.parquet")
    return read_outputs(folder) | {name: (folder / name).read_bytes() for name in scores}


def test_processes_do_not_change_the_bytes_of_augmented_runs(tmp_path, plain):
    folder = prepare_folder(tmp_path, meta_batch="4", shard="1")
    for key, value in AUGMENTATION.items():
        set_param(folder, f"augmentation.{key}", value)  # the first one, of train
    text = (folder / "params.yaml").read_text()
    head, evaluate = text.split("\nevaluate:")
    evaluate = evaluate.replace("copies: 0", "copies: 2").replace("flip: 0.0", "flip: 0.5")
    (folder / "params.yaml").write_text(f"{head}\nevaluate:{evaluate}")
    single, double = run_all(folder, 1), run_all(folder, 2)
    assert single == double
    unaugmented = read_outputs(plain)
    assert single["model/weights.safetensors"] != unaugmented["model/weights.safetensors"]
    config, metrics = (read_json(folder / name) for name in ("model/config.json", "metrics.json"))
    assert config["augmentation"] == {"crop": [0.5, 1.0], "brightness": 0.2}
    assert metrics["support_copies"] == 2
    for key in ("accuracy", "baselines"):
        assert metrics[key] != read_json(plain / "metrics.json")[key]


def test_processes_do_not_change_the_bytes_of_varied_episodes(tmp_path, plain):
    folder = prepare_folder(tmp_path, meta_batch="4")
    set_param(folder, "train.shots", "[1, 4]")
    set_param(folder, "train.unbalanced", "true")
    single, double = run_all(folder, 1), run_all(folder, 2)
    assert single == double
    weights = "model/weights.safetensors"
    assert single[weights] != read_outputs(plain)[weights]


def test_runs_without_augmentation_do_not_mention_it(plain):
    assert "augmentation" not in read_json(plain / "model/config.json")
    assert "support_copies" not in read_json(plain / "metrics.json")


def test_samplers_without_augmentation_are_not_wrapped(plain):
    settings = params.parse(params.read_yaml(plain / "params.yaml"))
    source = prepared.open_folder(plain / "prepared", torch.device("cpu"))
    assert isinstance(source.training_sampler(settings), ClassSampler)
    flips = replace(settings, train=replace(settings.train, augmentation=Augmentation(flip=0.5)))
    assert isinstance(source.training_sampler(flips), AugmentedSampler)


def test_reports_state_the_augmentation(tmp_path):
    root = synthetic.write(tmp_path / "run")
    run = results.read_results(
        root / "data/prepared",
        root / "models/run",
        root / "reports/scores",
        root / "reports/metrics.json",
        root / "reports/history",
    )
    config = run.config | {"augmentation": {"crop": [0.2, 1.0], "flip": 0.5}}
    augmented = replace(run, config=config, metrics=run.metrics | {"support_copies": 5})
    for shown, expected in ((run, False), (augmented, True)):
        headline = build_headline(shown, None, "cpu")
        copies = "5\N{NO-BREAK SPACE}augmented copies per support example"
        assert (copies in headline.protocol) is expected
        training = card.build_context(shown, Path("models/run"), headline)["training"]
        assert ("Training images were augmented: crop, flip." in training) is expected
