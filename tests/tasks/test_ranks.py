"""Several processes share a stage: the same bytes for any number of them, whoever starts them, and whichever is killed."""

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
from stages import ENVIRONMENT, EVALUATE, TRAIN, call, change, outputs, prepare, start

from tasks.files import read_json

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Seven tasks an iteration in four shards, the last of which is smaller: neither 2 nor 3 processes divide anything evenly."""
    return prepare(tmp_path_factory.mktemp("ranks"), meta_batch="7", shard="2", processes="1", iterations="20")


@pytest.fixture(scope="module")
def alone(prepared):
    """What one process makes of it."""
    call(prepared, "train", *TRAIN)
    call(prepared, "evaluate", *EVALUATE)
    return outputs(prepared)


def torchrun(folder: Path, processes: int) -> subprocess.Popen[str]:
    command = [*TORCHRUN, f"--nproc-per-node={processes}", "-m", "tasks.train", *TRAIN]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def scores(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("metrics.json", "scores/episodes.parquet", "scores/answers.parquet")}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_no_byte(prepared, alone, processes):
    expected = scores(prepared)
    change(prepared, "processes", str(processes))
    said, _ = call(prepared, "train", *TRAIN)
    call(prepared, "evaluate", *EVALUATE)
    change(prepared, "processes", "1")
    (plan,) = [event for event in map(json.loads, said.splitlines()) if event["event"] == "plan"]
    assert plan["processes"] == read_json(prepared / "run.json")["processes"] == processes, "they really were so many"
    assert outputs(prepared) == alone
    assert scores(prepared) == expected


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_torchrun_gives_the_same_bytes(prepared, alone, processes):
    process = torchrun(prepared, processes)
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert read_json(prepared / "run.json")["processes"] == processes
    assert outputs(prepared) == alone
    assert said.count('"event": "plan"') == 1, "the first process alone speaks"


def test_a_killed_rank_is_restarted_and_the_end_is_the_same(prepared, alone):
    change(prepared, "iterations", "400")
    call(prepared, "train", *TRAIN)
    expected = outputs(prepared)
    process = torchrun(prepared, 2)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("done", 0) >= 20:
            break
    ranks = sorted(child.pid for child in psutil.Process(process.pid).children())
    os.kill(ranks[-1], signal.SIGKILL)
    said, error = process.communicate(timeout=120)
    change(prepared, "iterations", "20")
    assert process.returncode == 0, error
    (resumed,) = [event["iteration"] for event in map(json.loads, said.splitlines()) if event["event"] == "resume"]
    assert 5 <= resumed < 400
    assert outputs(prepared) == expected


@pytest.fixture
def running(prepared):
    """A long training by two processes that has begun, and the process that was forked."""
    change(prepared, "processes", "2")
    change(prepared, "iterations", "100000")
    process = start(prepared, "train", *TRAIN)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("done", 0) >= 5:
            break
    (forked,) = psutil.Process(process.pid).children()
    yield process, forked
    process.kill()
    process.communicate()
    change(prepared, "processes", "1")
    change(prepared, "iterations", "20")


def test_a_killed_helper_is_one_sentence_and_worth_another_try(running):
    process, forked = running
    forked.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert error == "error: a process of this stage was killed by signal 9; if memory was short, set processes to a lower number\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_first(running, number):
    process, forked = running
    process.send_signal(number)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while forked.is_running() and forked.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the forked process still runs"
        time.sleep(0.05)
