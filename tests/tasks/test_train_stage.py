"""The stages train and evaluate as programs: SIGKILL and resume, and one-line errors."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from stages import (
    ENVIRONMENT,
    EVALUATE,
    TRAIN,
    prepare_folder,
    read_outputs,
    run_stage,
    set_param,
    start_stage,
)
from support import ROOT, needs_compiler

from episodic.core.statistics import mean_ci95
from tasks.runtime import resume
from tasks.runtime.files import read_json


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_folder(tmp_path_factory.mktemp("stages"), iterations="60")


def test_run_after_sigkill_gives_the_same_bytes(prepared):
    process = start_stage(prepared, "train", *TRAIN)
    states = (prepared / ".dvc" / "resume").glob
    while not list(states("*/seconds.json")):  # written after the first checkpoint
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (prepared / "model").exists(), (
        "no partial file"
    )
    (state,) = states("*/state.safetensors")

    set_param(prepared, "meta_lr", "0.003")  # another training: must not take the checkpoint up
    output, _ = run_stage(prepared, "train", *TRAIN)
    assert '"resume"' not in output
    set_param(prepared, "meta_lr", "0.002")
    assert state.exists()

    resume.write_elapsed(state.parent, 1000.0)
    kept = 1000.0
    output, _ = run_stage(prepared, "train", *TRAIN)
    events = [json.loads(line) for line in output.splitlines()]
    (resumed,) = [event["iteration"] for event in events if event["event"] == "resume"]
    done = [event["done"] for event in events if event["event"] == "progress"]
    assert 5 <= resumed < 60 and done[-1] == 60 and min(done) > resumed, (
        "the iterations after it ran"
    )
    facts = read_json(prepared / "run.json")
    assert facts["resumed_at"] == resumed and facts["seconds"] > kept, (
        "the time before the kill is included"
    )
    interrupted = read_outputs(prepared)
    assert not list((prepared / ".dvc" / "resume").iterdir()), "a finished checkpoint is deleted"

    output, _ = run_stage(prepared, "train", *TRAIN)
    assert '"resume"' not in output and read_json(prepared / "run.json")["resumed_at"] == 0
    assert read_outputs(prepared) == interrupted
    for name in interrupted:
        assert not re.search(rb"/(home|tmp|root|work)/|20\d\d-\d\d-\d\d", interrupted[name]), (
            f"{name}: a path or a date"
        )


def test_concurrent_training_run_is_an_error(prepared):
    set_param(prepared, "iterations", "100000")
    process = start_stage(prepared, "train", *TRAIN)
    process.stdout.readline()
    _, error = run_stage(prepared, "train", *TRAIN, code=1)
    process.kill()
    process.communicate()
    set_param(prepared, "iterations", "60")
    assert re.match(
        r"error: another process is already executing this training run \(lock file .*\); wait "
        r"for it to finish, or stop it\n",
        error,
    )


def test_evaluation_writes_what_is_documented(prepared):
    run_stage(prepared, "train", *TRAIN)
    run_stage(prepared, "evaluate", *EVALUATE)
    metrics = read_json(prepared / "metrics.json")
    episodes = pd.read_parquet(prepared / "scores/episodes.parquet")
    assert set(metrics) == {
        "accuracy",
        "accuracy_ci95",
        "loss",
        "episodes",
        "steps",
        "transductive",
        "inductive",
        "before",
        "baselines",
        "train",
        "labels",
        "calibration",
        "unknown",
        "sets",
        "ensemble",
        "tasks",
    }
    headline = episodes.query("mode == 'transductive' and step == 1")["accuracy"]
    assert (
        metrics["accuracy"] == pytest.approx(headline.mean())
        and len(headline) == metrics["episodes"] == 20
    )
    assert metrics["accuracy_ci95"] == pytest.approx(mean_ci95(headline, share=True)[1])
    assert metrics["accuracy_ci95"] > 2.09 * headline.std() / 20**0.5, "Student's t"
    assert metrics["baselines"]["chance"]["accuracy"] == 0.2
    assert sorted(episodes["step"].unique()) == list(range(11)) and set(episodes["mode"]) == {
        "transductive",
        "inductive",
    }
    predictions = pd.read_parquet(prepared / "scores/answers.parquet")
    right = (predictions["after"] == predictions["label"]).groupby(predictions["episode"]).mean()
    np.testing.assert_allclose(right, headline, atol=1e-6)
    classes = pd.read_parquet(prepared / "scores/classes.parquet")
    assert (
        classes["queries"].sum() == len(predictions)
        and classes["correct"].sum() == (predictions["after"] == predictions["label"]).sum()
    )
    table = pd.read_parquet(prepared / "prepared/classes.parquet").set_index("class")
    assert set(table.loc[classes["class"], "split"]) == {"test"}
    first = {
        name: (prepared / name).read_bytes()
        for name in ("metrics.json", "scores/episodes.parquet", "scores/answers.parquet")
    }
    run_stage(prepared, "evaluate", *EVALUATE)
    assert {name: (prepared / name).read_bytes() for name in first} == first


@needs_compiler
def test_compiled_kernels_give_the_same_figures_and_are_refused_without_a_compiler(
    tmp_path, monkeypatch
):
    folder = prepare_folder(tmp_path, iterations="20", mode="compiled")
    output, _ = run_stage(folder, "train", *TRAIN)
    (plan,) = [event for event in map(json.loads, output.splitlines()) if event["event"] == "plan"]
    assert plan["mode"] == "compiled" and "++" in read_json(folder / "run.json")["compiler"]
    losses = []
    for compiled in ("false", "true"):
        set_param(folder, "evaluate.compiled", compiled)
        run_stage(folder, "evaluate", *EVALUATE)
        losses.append(pd.read_parquet(folder / "scores/episodes.parquet")["loss"].to_numpy())
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-5)
    assert (losses[0] != losses[1]).any(), "other kernels round differently"

    monkeypatch.setitem(ENVIRONMENT, "CXX", "no-such-compiler")
    for stage, args in (("train", TRAIN), ("evaluate", EVALUATE)):
        _, error = run_stage(folder, stage, *args, code=1)
        assert error == (
            "error: compiled kernels (train.plan.mode, evaluate.compiled) need a C++ compiler, and "
            "no-such-compiler (set by CXX) is not installed; install one, or set "
            "train.plan.mode to auto and evaluate.compiled to false\n"
        )


def test_missing_or_unsuitable_files_are_errors(prepared, tmp_path):
    _, error = run_stage(prepared, "train", "--data", "nowhere", *TRAIN[2:], code=1)
    assert (
        error == "error: nowhere/meta.json does not exist: run the stage that writes it first "
        "(dvc repro)\n"
    )
    _, error = run_stage(
        prepared, "evaluate", *EVALUATE[:2], "--model", str(tmp_path), *EVALUATE[4:], code=1
    )
    assert (
        "contains no model" in error
        and "`dvc repro` creates" in error
        and len(error.splitlines()) == 1
    )
    _, error = run_stage(tmp_path, "train", *TRAIN, code=1)
    assert (
        error
        == "error: params.yaml does not exist; run in the root of the repository, or pass the file "
        "with --params\n"
    )


def test_ways_that_differ_from_training_are_scored_or_rejected(tmp_path):
    """A metric algorithm is scored at any ways; one whose head has five outputs is rejected.

    Baselines and chance are those of the test episodes.
    """
    prepare_folder(tmp_path, **{"algorithm.name": "protonet"})
    run_stage(tmp_path, "train", *TRAIN)
    set_param(tmp_path, "algorithm.name", "maml")
    run_stage(tmp_path, "train", *TRAIN[:2], "--model", "maml", *TRAIN[4:])
    set_param(tmp_path, "episodes.ways", "7")
    run_stage(tmp_path, "episodes", "--raw", "raw", "--out", "wider")
    run_stage(tmp_path, "evaluate", "--data", "wider", *EVALUATE[2:])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["baselines"]["chance"]["accuracy"] == 1 / 7 and set(metrics["baselines"]) == {
        "chance",
        "pixel_centroid",
        "random_init",
    }
    _, error = run_stage(
        tmp_path, "evaluate", "--data", "wider", "--model", "maml", *EVALUATE[4:], code=1
    )
    assert error.splitlines()[-1].startswith(
        "error: ways is 7; it must be 5, since the head has one output per class"
    )


def test_cuda_without_a_device_is_an_error(prepared):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device, so requesting one is not an error")
    set_param(prepared, "device", "cuda")
    _, error = run_stage(prepared, "train", *TRAIN, code=1)
    set_param(prepared, "device", "auto")
    assert (
        error
        == "error: device is 'cuda'; it needs a CUDA device that torch can use, and this machine "
        "has none; set device to auto or cpu\n"
    )


def test_missing_environment_error_suggests_a_remedy(tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    for path in (f"{tmp_path}:/usr/bin:/bin", "/usr/bin:/bin"):
        result = subprocess.run(
            ["sh", "run-stage", "train"],
            cwd=ROOT,
            env={"PATH": path},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert result.stderr == (
            "error: the project's environment is not on PATH: run 'make setup', then '. "
            ".venv/bin/activate', and try again\n"
        )
