"""The benchmarks run, and the compared programs compute the same result. Timings are not tested."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import warm
from support import ROOT

from benchmarks.speed import peers, scale
from benchmarks.speed.rows import ROWS
from benchmarks.speed.workloads import WORKLOADS
from episodic.engine import outer
from episodic.models import conv4

SMALL = {
    "strided": replace(WORKLOADS["W1q15"], tasks=2, steps=2, queries=2, model=conv4.Conv4(4, 2)),
    "pooled": replace(
        WORKLOADS["W2"],
        tasks=2,
        steps=2,
        queries=2,
        input=(3, 16, 16),
        model=conv4.Conv4(4, 2, "max_pool", "flatten"),
    ),
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def call(*args: str) -> str:
    result = subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("row", [name for name, row in ROWS.items() if row.peer])
def test_peers_compute_the_same_gradient(row, name):
    if ROWS[row].missing:
        pytest.skip(f"{row} is not installed (an optional peer of the benchmarks)")
    workload, dtype = SMALL[name], torch.float32 if row == "jax" else torch.float64
    theta, episode = workload.theta(dtype), workload.episode(dtype)
    ours = outer.meta_gradient(workload.learner, theta, episode).gradient
    theirs = ROWS[row].peer(workload, theta, episode)()
    assert theirs.keys() == peers.drop_unused_biases(theta).keys()
    near = 1e-3 if row == "jax" else 1e-10
    for name, g in theirs.items():
        assert (ours[name] - g).norm() < near * g.norm(), name


def test_operation_counts_match_the_reference():
    counted = {
        name: round(workload.floating_point_operations() / 1e9, 1)
        for name, workload in WORKLOADS.items()
    }
    assert counted == {"W1q1": 10.0, "W1q15": 45.2, "W2": 261.1}


def test_the_table_is_printed_and_written(tmp_path):
    stdout = call(
        "benchmarks/speed/run.py",
        "--rounds",
        "1",
        "--workloads",
        "W1q1",
        "--rows",
        "eager",
        "engine",
        "--out",
        str(tmp_path),
    )
    assert "engine, 2 processes" in stdout and "float64 difference" in stdout
    assert (tmp_path / "speed.csv").read_text().count("\n") == 3 and (
        tmp_path / "speed.png"
    ).stat().st_size > 5000


def test_implicit_and_first_order_gradients_are_compared():
    options = ("--iterations", "1", "--seeds", "1", "--episodes", "10")
    lines = call("-m", "benchmarks.implicit_gradient", "--model", "conv4", *options).splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [
        "conv4, seed 0, implicit",
        "conv4, seed 0, first-order",
    ]
    assert lines[2].startswith("  implicit - first-order: ") and len(lines) == 3


def test_the_gpu_program_needs_only_torch_and_numpy(tmp_path):
    """Runs on the CPU with all other packages blocked."""
    blocked = [
        "prefect",
        "dvc",
        "pandas",
        "pydantic",
        "safetensors",
        "torchvision",
        "PIL",
        "rich",
        "ruamel",
        "pyarrow",
        "tasks",
        "flows",
        "altair",
    ]
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    )
    command = [
        sys.executable,
        "benchmarks/gpu.py",
        "--device",
        "cpu",
        "--workloads",
        "W1q1",
        "--seconds",
        "0.1",
        "--out",
        str(tmp_path),
    ]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "sampling as on the CPU: True" in result.stdout and "failed" not in result.stdout
    assert (tmp_path / "gpu.csv").exists()


def test_ten_times_the_data_take_no_more_memory(tmp_path):
    sizes = []
    for megabytes in (30, 300):
        path = tmp_path / "images.npy"
        scale.write_images(path, megabytes)
        sizes.append(
            int(
                call("-m", "benchmarks.speed.scale", "--memory", str(path))
                .split(":")[1]
                .strip(" }\n")
            )
        )
        path.unlink()
    assert sizes[1] < 1.2 * sizes[0], sizes
    assert 0.2 * sizes[0] < 200e6, "the other 270 MB, held in memory, would show"


@pytest.mark.parametrize("name", ["sinusoid", "tiny", "omniglot_20w1s"])
def test_time_to_accuracy_compares_only_one_task(name):
    result = warm.run(
        ["-m", "benchmarks.speed.time_to_accuracy", "--preset", name], ROOT, ENVIRONMENT
    )
    assert (
        result.returncode == 1
        and f"error: --preset {name} defines a different task from omniglot_5w1s" in result.stderr
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["benchmarks.speed.run", "--out", "{file}"], "is not a folder and cannot be created"),
        (["benchmarks.speed.run", "--rounds", "0"], "0 must be a whole number of at least 1"),
        (["benchmarks.speed.plan", "--rounds", "0"], "0 must be a whole number of at least 1"),
        (
            ["benchmarks.speed.time_to_accuracy", "--every", "0"],
            "0 must be a whole number of at least 1",
        ),
    ],
)
def test_arguments_are_checked_before_anything_is_measured(args, message, tmp_path):
    (tmp_path / "file").touch()
    command = [word.format(file=tmp_path / "file") for word in args]
    result = warm.run(["-m", *command], ROOT, ENVIRONMENT)
    assert result.returncode == 2 and message in result.stderr and result.stdout == ""


def test_plans_are_measured_and_printed(tmp_path):
    from stages import prepare_folder

    folder = prepare_folder(tmp_path)
    result = warm.run(
        ["-m", "benchmarks.speed.plan", "--data", "prepared", "--rounds", "1"], folder, ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("*") == 2 and "  plan:\n    mode: " in result.stdout
    shutil.rmtree(folder / "prepared")
