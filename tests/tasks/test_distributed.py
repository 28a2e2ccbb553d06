"""A stage in several processes: the same bytes for any number, launcher and killed process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
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
from support import needs_compiler

from episodic.engine.processes import ProcessGroup
from tasks.runtime import distributed
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Seven tasks per iteration in four unequal shards, which neither 2 nor 3 processes divide."""
    return prepare_folder(
        tmp_path_factory.mktemp("ranks"), meta_batch="7", shard="2", processes="1", iterations="20"
    )


@pytest.fixture(scope="module")
def single_process(prepared):
    """The outputs of a single process."""
    run_stage(prepared, "train", *TRAIN)
    run_stage(prepared, "evaluate", *EVALUATE)
    return read_outputs(prepared)


def torchrun(folder: Path, processes: int, *more: str) -> subprocess.Popen[str]:
    command = [*TORCHRUN, *more, f"--nproc-per-node={processes}", "-m", "tasks.train", *TRAIN]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def scores(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes()
        for name in ("metrics.json", "scores/episodes.parquet", "scores/answers.parquet")
    }


@pytest.mark.parametrize("processes", [2, 3])
def test_results_do_not_depend_on_the_number_of_processes(prepared, single_process, processes):
    expected = scores(prepared)
    set_param(prepared, "processes", str(processes))
    output, _ = run_stage(prepared, "train", *TRAIN)
    run_stage(prepared, "evaluate", *EVALUATE)
    set_param(prepared, "processes", "1")
    (plan,) = [event for event in map(json.loads, output.splitlines()) if event["event"] == "plan"]
    assert plan["processes"] == read_json(prepared / "run.json")["processes"] == processes, (
        "the requested number of processes ran"
    )
    assert read_outputs(prepared) == single_process
    assert scores(prepared) == expected


@needs_compiler
def test_processes_change_no_byte_of_the_compiled_plan(prepared, single_process):
    set_param(prepared, "plan.mode", "compiled")
    set_param(prepared, "evaluate.compiled", "true")
    ends = []
    for processes in (1, 3):
        set_param(prepared, "processes", str(processes))
        run_stage(prepared, "train", *TRAIN)
        assert read_json(prepared / "run.json")["processes"] == processes
        run_stage(prepared, "evaluate", *EVALUATE)
        ends.append(read_outputs(prepared) | scores(prepared))
    set_param(prepared, "processes", "1")
    set_param(prepared, "evaluate.compiled", "false")
    set_param(prepared, "plan.mode", "auto")
    assert ends[0] == ends[1]
    assert ends[0]["model/weights.safetensors"] != single_process["model/weights.safetensors"], (
        "other kernels round differently"
    )


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_torchrun_gives_the_same_bytes(prepared, single_process, processes):
    process = torchrun(prepared, processes)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert read_json(prepared / "run.json")["processes"] == processes
    assert read_outputs(prepared) == single_process
    assert output.count('"event": "plan"') == 1, "only the first process prints"


def test_more_processes_than_shards_is_an_error(prepared):
    set_param(prepared, "plan.shard", "4")
    process = torchrun(prepared, 3, "--max-restarts=0")
    _, error = process.communicate(timeout=120)
    set_param(prepared, "plan.shard", "2")
    assert process.returncode != 0
    assert (
        "error: 3 processes were started for 2 shard(s) of the meta-batch, so some would be idle; "
        "start fewer, or set train.plan.shard to 2" in error
    )


def test_only_one_torchrun_process_reports_errors(prepared):
    set_param(prepared, "meta_lr", "-1")
    process = torchrun(prepared, 2, "--max-restarts=0")
    _, error = process.communicate(timeout=120)
    set_param(prepared, "meta_lr", "0.002")
    assert process.returncode != 0 and error.count("error: params.yaml: train.meta_lr is -1") == 1


def test_scheduler_variables_are_not_mistaken_for_torchrun(prepared, single_process, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "RANK", "0")
    monkeypatch.setitem(ENVIRONMENT, "WORLD_SIZE", "1")
    run_stage(prepared, "train", *TRAIN)
    assert read_outputs(prepared) == single_process


def test_early_exit_of_a_process_is_an_error(tmp_path):
    program = """
import os, torch
from tasks.runtime import distributed, stage
distributed._run_child = lambda *_: os._exit(9)
def body():
    with distributed.start_processes(2, torch.device("cpu")):
        pass
stage.run(body)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 75
    assert (
        "error: a process of this stage exited during start-up" in result.stderr
        and "Traceback" not in result.stderr
    )


def test_an_idle_process_computes_nothing():
    asked = []

    def shard(i: int) -> torch.Tensor:
        asked.append(i)
        return torch.zeros(1, 3)

    idle = torch.zeros(0, 3)
    with pytest.raises((ValueError, RuntimeError)):  # there is no group to gather from
        ProcessGroup(1, 2).gather_rows(shard, [1], idle)
    assert asked == []


def test_a_killed_rank_is_restarted_and_the_end_is_the_same(prepared, single_process):
    set_param(prepared, "iterations", "100")
    run_stage(prepared, "train", *TRAIN)
    expected = read_outputs(prepared)
    process = torchrun(prepared, 2)
    while not list((prepared / ".dvc/resume").glob("*/state.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    started = sorted(child.pid for child in psutil.Process(process.pid).children())
    os.kill(started[-1], signal.SIGKILL)
    output, error = process.communicate(timeout=120)
    set_param(prepared, "iterations", "20")
    assert process.returncode == 0, error
    (resumed,) = [
        event["iteration"]
        for event in map(json.loads, output.splitlines())
        if event["event"] == "resume"
    ]
    assert 5 <= resumed < 100
    assert read_outputs(prepared) == expected


@pytest.fixture
def running(prepared):
    """A long training by two processes that has begun, and the process that was forked."""
    set_param(prepared, "processes", "2")
    set_param(prepared, "iterations", "100000")
    process = start_stage(prepared, "train", *TRAIN)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("done", 0) >= 5:
            break
    (forked,) = psutil.Process(process.pid).children()
    yield process, forked
    process.kill()
    process.communicate()
    set_param(prepared, "processes", "1")
    set_param(prepared, "iterations", "20")


def test_killed_process_is_a_temporary_error(running):
    process, forked = running
    forked.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert (
        error == "error: a process of this stage was killed by signal 9; if memory ran out, "
        "lower processes in params.yaml\n"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_first(running, number):
    process, forked = running
    process.send_signal(number)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while forked.is_running() and forked.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the forked process still runs"
        time.sleep(0.05)


PROGRAM = """
import torch
from tasks.runtime import distributed

with distributed.start_processes(3, torch.device("cpu")) as group:
    sizes = [i % 3 + 1 for i in range(5)]
    rows = group.gather_rows(lambda i: torch.full((i % 3 + 1, 2), float(i)), sizes)
    few = group.gather_rows(lambda i: torch.full((2, 1), float(i)), [2])
    received = [
        group.broadcast_object(text if group.rank == 0 else b"another", torch.device("cpu"))
        for text in (b"", b"first")
    ]
    expected = [0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    assert rows.tolist() == [[value, value] for value in expected], rows
    assert few.tolist() == [[0.0], [0.0]], few
    assert received == [b"", b"first"], received
    owners = group.gather_rows(lambda i: torch.tensor([[group.rank]]), [1] * 4)
    assert owners[:, 0].tolist() == [0, 1, 2, 0], "each process computed its shards"
    if group.rank == 0:
        print("all three agree")
"""


def test_every_process_gathers_all_shards_in_order():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert result.stdout == "all three agree\n"


def test_number_of_processes_follows_work_and_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert distributed.count_processes(None, 8, False, cpu) == 1, "small work"
    assert (
        distributed.count_processes(3, 8, False, cpu) == 3
        and distributed.count_processes(9, 4, True, cpu) == 4
    ), "no more than there are shards"
    assert (
        distributed.count_processes(None, 8, True, cuda)
        == distributed.count_processes(1, 8, True, cuda)
        == 1
    )
    with pytest.raises(StageError, match="processes is 2; it must be null or 1 on a GPU"):
        distributed.count_processes(2, 8, True, cuda)
