"""Execution of a stage: failures, retries, waiting for another DVC command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import stages
from flows.dvc_worker.driver import WorkerError
from flows.dvc_worker.protocol import StageRequest, StageResult
from flows.dvc_worker.stage_output import StageOutput
from flows.stages import bring_up_to_date, failed_task_state, is_temporary
from tasks.runtime.stage import StageError


def make_output(*lines: str) -> StageOutput:
    output = StageOutput(lambda line: None)
    for line in lines:
        output.write(line)
    return output


def test_a_failure_is_explained_by_the_stage_itself():
    start = ("Running stage 'train':", "> python -m tasks.train", '{"event": "progress"}')
    failed = StageResult("failed", "failed to run: python -m tasks.train, exited with 1", 1)
    diverged = make_output(*start, "error: first", "error: training diverged", "bye")
    assert diverged.describe_failure(failed) == "training diverged"
    crashed = make_output(*start, "Traceback (most recent call last):", "KeyError: 'x'")
    assert crashed.describe_failure(failed).endswith("its last line: KeyError: 'x'")
    killed = make_output(*start).describe_failure(StageResult("failed", "", -9))
    assert killed == "the stage was killed by SIGKILL (out of memory?)"
    assert (
        make_output(*start).describe_failure(StageResult("failed", "no such stage"))
        == "no such stage"
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., StageResult]:
    """`bring_up_to_date` with a DVC process that gives these replies."""

    def bring(
        *replies: StageResult | Exception, on_line: Any = print, lock_timeout: float = 0
    ) -> StageResult:
        queue = list(replies)

        def send(*_: Any) -> StageResult:
            reply = queue.pop(0) if len(queue) > 1 else queue[0]
            if isinstance(reply, Exception):
                raise reply
            return reply

        worker: Any = SimpleNamespace(send=send)
        return bring_up_to_date(
            StageRequest("train"), worker, tmp_path, "digest", on_line, lock_timeout
        )

    return bring


def test_only_temporary_failures_are_retried(run):
    def fails_for_good(reply: StageResult | Exception) -> bool:
        with pytest.raises(StageError, match=r"^train: ") as caught:
            run(reply)
        return not is_temporary(None, None, failed_task_state(caught.value))

    assert not fails_for_good(StageResult("failed", "", 75))
    assert fails_for_good(StageResult("failed", "", 1))
    assert fails_for_good(StageResult("failed", "", -9))
    assert fails_for_good(StageResult("failed", "no such stage"))
    assert fails_for_good(WorkerError("the DVC process was killed by SIGKILL"))


def test_another_dvc_command_is_waited_for(run, monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stages.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(
        stages.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds)
    )
    lines: list[str] = []
    busy = StageResult("busy", "PID 12")
    assert (
        run(busy, busy, StageResult("ran"), on_line=lines.append, lock_timeout=10).outcome == "ran"
    )
    assert lines == [
        "another DVC command is running in this workspace; waiting up to 10 s for it to end"
    ]
    with pytest.raises(StageError, match=r"^train: another DVC command .*; try again .*PID 12"):
        run(busy, lock_timeout=10)
    assert clock.now == pytest.approx(4 + 10)
