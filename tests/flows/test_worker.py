"""The DVC process by itself: which stages it runs, restores and leaves alone, and what it says when it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from flows.dvc_worker.driver import Worker, WorkerError, ending
from flows.dvc_worker.protocol import Plan, Reproduce, Verdict
from tests.flows.toy import STAGES, Toy, gone


def outcomes(worker: Worker) -> dict[str, str]:
    return {stage: worker.ask(Reproduce(stage), lambda line: None).outcome for stage in STAGES}


def expect(**changed: str) -> dict[str, str]:
    return {**dict.fromkeys(STAGES, "unchanged"), **changed}


def test_every_kind_of_change(toy: Toy):
    """Runs exactly what a change reaches, and takes turns with `dvc repro`."""
    with Worker(toy.path) as worker:
        assert outcomes(worker) == dict.fromkeys(STAGES, "ran")
        assert outcomes(worker) == expect()
        assert toy.dvc("status").strip() == "Data and pipelines are up to date."
        assert "Running" not in toy.dvc("repro")

        toy.params(evaluate=2)
        assert outcomes(worker) == expect(evaluate="ran", report="ran")
        toy.params(evaluate=1)
        assert outcomes(worker) == expect(evaluate="restored", report="restored")
        assert (toy.path / "reports/metrics.json").read_text().startswith("[1,"), (
            "the uncached metric came back too"
        )
        toy.params(train=2)
        assert "Running stage 'train'" in toy.dvc("repro")
        assert outcomes(worker) == expect()

        (toy.path / "models/run").unlink()
        (toy.path / "reports/metrics.json").unlink()
        assert outcomes(worker) == expect(train="restored", evaluate="restored")
        (toy.path / "data/prepared").write_text("tampered")
        assert outcomes(worker) == expect(episodes="restored")

        (toy.path / "stage.py").write_text((toy.path / "stage.py").read_text() + "\n# a wording\n")
        assert outcomes(worker) == dict.fromkeys(STAGES, "ran")
        assert worker.ask(Reproduce("report", force=True), lambda line: None).outcome == "ran"
    assert toy.dvc("status").strip() == "Data and pipelines are up to date."


def test_the_order_is_the_graph_s(toy: Toy):
    with Worker(toy.path) as worker:
        steps = worker.ask(Plan(), print)
        assert steps.names == STAGES
        assert steps.needs == {
            "download": [],
            "episodes": ["download"],
            "train": ["episodes"],
            "evaluate": ["train"],
            "report": ["download", "evaluate"],
        }
        assert worker.ask(Plan(["train"]), print).names == STAGES[:3]
        assert "'nonsense'" in worker.ask(Plan(["nonsense"]), print).message


def test_failures_say_why(toy: Toy):
    said: list[str] = []
    with Worker(toy.path) as worker:
        missing = "data/prepared does not exist, and dvc.yaml says that this stage needs it"
        assert worker.ask(Reproduce("train"), said.append) == Verdict("failed", missing)
        toy.knob("exit-download", "75")
        assert worker.ask(Reproduce("download"), said.append).exit_code == 75
        toy.knob("fail-download", "the disk is full")
        assert worker.ask(Reproduce("download"), said.append).exit_code == 1
        assert "error: the disk is full" in said
        (toy.path / "dvc.yaml").write_text("stages: [")
        verdict = worker.ask(Plan(), said.append)
        assert (
            verdict.outcome == "failed"
            and "dvc.yaml" in verdict.message
            and "\n" not in verdict.message
        )


def test_a_busy_workspace_is_no_failure(toy: Toy):
    toy.knob("slow-train", "")
    with Worker(toy.path) as first, Worker(toy.path) as second:
        first.ask(Reproduce("download"), print)
        first.ask(Reproduce("episodes"), print)
        assert first.process.stdin is not None
        first.process.stdin.write('{"kind": "Reproduce", "stage": "train"}\n')
        first.process.stdin.flush()
        toy.slow_pids()
        assert second.ask(Reproduce("episodes"), lambda line: None).outcome == "busy"


@pytest.mark.parametrize("how", ["end of file", "worker killed"])
def test_nothing_survives(toy: Toy, how: str):
    """Whoever dies first, the stage and its child, which holds the output open, die as well."""
    toy.knob("slow-train", "")
    worker, stage = Worker(toy.path), []

    def kill(line: str) -> None:
        if '"done": 3' in line:
            stage.extend(psutil.Process(pid) for pid in toy.slow_pids())
            assert worker.process.stdin is not None
            worker.process.stdin.close() if how == "end of file" else os.kill(
                worker.process.pid, signal.SIGKILL
            )

    with worker:
        worker.ask(Reproduce("download"), print)
        worker.ask(Reproduce("episodes"), print)
        with suppress(WorkerError):
            worker.ask(Reproduce("train"), kill)
        assert len(stage) == 2
        gone(stage)
        assert worker.process.wait(20) == -signal.SIGKILL
    assert toy.locked() == (how == "worker killed"), "DVC releases its locks if it can"
    toy.knob("slow-train", None)
    with Worker(toy.path) as worker:
        assert worker.ask(Reproduce("train"), print).outcome == "ran", "DVC's locks are free"


def test_ending():
    for code in (-9, 137):
        assert ending(code) == "was killed by SIGKILL (out of memory?)"
    assert ending(-15) == "was killed by SIGTERM"
    assert ending(1) == "ended with exit code 1"


def test_the_worker_needs_no_prefect():
    """It starts in half the time, and `dvc` alone can serve it."""
    code = "import sys; sys.modules['prefect'] = None; import flows.dvc_worker.worker, flows.dvc_worker.driver, flows.pipeline_command"
    subprocess.run([sys.executable, "-c", code], check=True)
