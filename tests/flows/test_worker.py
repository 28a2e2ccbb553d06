"""The DVC process: the stages that it runs, restores and skips, and its failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from flows.dvc_worker.driver import Worker, WorkerError, describe_exit
from flows.dvc_worker.protocol import PlanRequest, StageRequest, StageResult
from tasks.runtime.stage import StageError
from tests.flows.toy import STAGES, Toy, wait_until_gone


def outcomes(worker: Worker) -> dict[str, str]:
    return {stage: worker.send(StageRequest(stage), ignore).outcome for stage in STAGES}


def expected(**changed: str) -> dict[str, str]:
    return {**dict.fromkeys(STAGES, "unchanged"), **changed}


def ignore(line: str) -> None: ...


def test_every_kind_of_change(toy: Toy):
    """The worker runs exactly the affected stages, and alternates with `dvc repro`."""
    with Worker(toy.path) as worker:
        assert outcomes(worker) == dict.fromkeys(STAGES, "ran")
        assert outcomes(worker) == expected()
        assert toy.dvc("status").strip() == "Data and pipelines are up to date."
        assert "Running" not in toy.dvc("repro")

        toy.params(evaluate=2)
        assert outcomes(worker) == expected(evaluate="ran", report="ran")
        toy.params(evaluate=1)
        assert outcomes(worker) == expected(evaluate="restored", report="restored")
        metrics = (toy.path / "reports/metrics.json").read_text()
        assert metrics.startswith("[1,"), "metrics outside the cache are restored too"
        toy.params(train=2)
        assert "Running stage 'train'" in toy.dvc("repro")
        assert outcomes(worker) == expected()

        (toy.path / "models/run").unlink()
        (toy.path / "reports/metrics.json").unlink()
        assert outcomes(worker) == expected(train="restored", evaluate="restored")
        (toy.path / "data/prepared").write_text("tampered")
        assert outcomes(worker) == expected(episodes="restored")

        (toy.path / "stage.py").write_text((toy.path / "stage.py").read_text() + "\n# a comment\n")
        assert outcomes(worker) == dict.fromkeys(STAGES, "ran")
        assert worker.send(StageRequest("report", force=True), ignore).outcome == "ran"
    assert toy.dvc("status").strip() == "Data and pipelines are up to date."


def test_the_plan_follows_the_graph(toy: Toy):
    with Worker(toy.path) as worker:
        plan = worker.plan([], print)
        assert plan.stages == STAGES
        assert plan.dependencies == {
            "download": [],
            "episodes": ["download"],
            "train": ["episodes"],
            "evaluate": ["train"],
            "report": ["download", "evaluate"],
        }
        assert len(set(plan.digests.values())) == 5
        assert worker.plan(["train"], print).stages == STAGES[:3]
        with pytest.raises(StageError, match=r"^dvc\.yaml: .*'nonsense'"):
            worker.plan(["nonsense"], print)
        toy.params(evaluate=2)
        changed = worker.plan([], print).digests
        same = [stage for stage in STAGES if changed[stage] == plan.digests[stage]]
        assert same == ["download", "episodes", "train"]


def test_failures_have_a_reason(toy: Toy):
    lines: list[str] = []
    with Worker(toy.path) as worker:
        missing = "data/prepared does not exist, but this stage depends on it (see dvc.yaml)"
        assert worker.send(StageRequest("train"), lines.append) == StageResult("failed", missing)
        toy.knob("exit-download", "75")
        assert worker.send(StageRequest("download"), lines.append).exit_code == 75
        toy.knob("fail-download", "the disk is full")
        assert worker.send(StageRequest("download"), lines.append).exit_code == 1
        assert "error: the disk is full" in lines
        (toy.path / "dvc.yaml").write_text("stages: [")
        result = worker.send(PlanRequest(), lines.append)
        assert result.outcome == "failed"
        assert "dvc.yaml" in result.message and "\n" not in result.message


def test_a_busy_workspace_is_not_a_failure(toy: Toy):
    toy.knob("slow-train", "")
    with Worker(toy.path) as first, Worker(toy.path) as second:
        first.send(StageRequest("download"), print)
        first.send(StageRequest("episodes"), print)
        assert first.process.stdin is not None
        first.process.stdin.write('{"kind": "StageRequest", "stage": "train"}\n')
        first.process.stdin.flush()
        toy.slow_pids()
        assert second.send(StageRequest("episodes"), ignore).outcome == "busy"


@pytest.mark.parametrize("cause", ["end of file", "worker killed"])
def test_nothing_survives(toy: Toy, cause: str):
    """Whichever process ends first, the stage and its child, which holds the output open, end."""
    toy.knob("slow-train", "")
    worker, stage = Worker(toy.path), []

    def kill(line: str) -> None:
        if '"done": 3' in line:
            stage.extend(psutil.Process(pid) for pid in toy.slow_pids())
            assert worker.process.stdin is not None
            if cause == "end of file":
                worker.process.stdin.close()
            else:
                os.kill(worker.process.pid, signal.SIGKILL)

    with worker:
        worker.send(StageRequest("download"), print)
        worker.send(StageRequest("episodes"), print)
        with suppress(WorkerError):
            worker.send(StageRequest("train"), kill)
        assert len(stage) == 2
        wait_until_gone(stage)
        assert worker.process.wait(20) == -signal.SIGKILL
    assert toy.locked() == (cause == "worker killed"), "DVC releases its locks if it can"
    toy.knob("slow-train", None)
    with Worker(toy.path) as worker:
        assert worker.send(StageRequest("train"), print).outcome == "ran", "DVC's locks are free"


def test_exits_in_words():
    for code in (-9, 137):
        assert describe_exit(code) == "was killed by SIGKILL (out of memory?)"
    assert describe_exit(-15) == "was killed by SIGTERM"
    assert describe_exit(1) == "ended with exit code 1"


def test_command_lines_and_the_worker_need_no_prefect():
    """The worker starts in half the time, and Prefect is imported after its environment is set."""
    modules = ["flows.dvc_worker.worker", "flows.dvc_worker.driver"]
    modules += [f"flows.{name}.__main__" for name in ("pipeline", "compare", "sweep", "ui")]
    code = f"import sys; sys.modules['prefect'] = None; import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True)
