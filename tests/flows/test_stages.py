"""How a stage is brought up to date: failures, retries, waiting for another DVC command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import stages
from flows.dvc_worker.driver import WorkerError
from flows.dvc_worker.protocol import StageRequest, Verdict
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
    failed = Verdict("failed", "failed to run: python -m tasks.train, exited with 1", 1)
    diverged = make_output(*start, "error: first", "error: training diverged", "bye")
    assert diverged.explain(failed) == "training diverged"
    crashed = make_output(*start, "Traceback (most recent call last):", "KeyError: 'x'")
    assert crashed.explain(failed).endswith("its last line: KeyError: 'x'")
    killed = make_output(*start).explain(Verdict("failed", "", -9))
    assert killed == "the stage was killed by SIGKILL (out of memory?)"
    assert make_output(*start).explain(Verdict("failed", "no such stage")) == "no such stage"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Verdict]:
    """`bring_up_to_date` with a DVC process that gives these replies."""

    def bring(*replies: Verdict | Exception, on_line: Any = print, patience: float = 0) -> Verdict:
        queue = list(replies)

        def ask(*_: Any) -> Verdict:
            reply = queue.pop(0) if len(queue) > 1 else queue[0]
            if isinstance(reply, Exception):
                raise reply
            return reply

        worker: Any = SimpleNamespace(ask=ask)
        return bring_up_to_date(
            StageRequest("train"), worker, tmp_path, "digest", on_line, patience
        )

    return bring


def test_only_temporary_failures_are_retried(run):
    def fails_for_good(reply: Verdict | Exception) -> bool:
        with pytest.raises(StageError, match=r"^train: ") as caught:
            run(reply)
        return not is_temporary(None, None, failed_task_state(caught.value))

    assert not fails_for_good(Verdict("failed", "", 75))
    assert fails_for_good(Verdict("failed", "", 1))
    assert fails_for_good(Verdict("failed", "", -9))
    assert fails_for_good(Verdict("failed", "no such stage"))
    assert fails_for_good(WorkerError("the DVC process was killed by SIGKILL"))


def test_another_dvc_command_is_waited_for(run, monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stages.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(
        stages.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds)
    )
    lines: list[str] = []
    busy = Verdict("busy", "PID 12")
    assert run(busy, busy, Verdict("ran"), on_line=lines.append, patience=10).outcome == "ran"
    assert lines == [
        "another DVC command works in this workspace; waiting up to 10 s for it to end"
    ]
    with pytest.raises(
        StageError, match=r"^train: another DVC command .*: run this again .*PID 12"
    ):
        run(busy, patience=10)
    assert clock.now == pytest.approx(4 + 10)
