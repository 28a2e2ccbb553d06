"""What a stage's task makes of DVC's verdicts."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from prefect.client.schemas.objects import State

from flows import stage
from flows.dvc_worker.protocol import Reproduce, Verdict
from flows.stage import Output, may_mend, reproduce, run_stage


def output(*lines: str) -> Output:
    result = Output(lambda text: None)
    for line in lines:
        result.line(line)
    return result


def test_the_stage_s_own_words():
    running = ("Running stage 'train':", "> python -m tasks.train", '{"event": "progress"}')
    failed = Verdict("failed", "failed to run: python -m tasks.train, exited with 1", 1)
    assert (
        output(*running, "error: first", "error: it diverged", "bye").reason(failed)
        == "it diverged"
    )
    assert (
        output(*running, "Traceback (most recent call last):", "KeyError: 'x'")
        .reason(failed)
        .endswith("its last line: KeyError: 'x'")
    )
    assert (
        output(*running).reason(Verdict("failed", "", -9))
        == "the stage was killed by SIGKILL (out of memory?)"
    )
    assert output(*running).reason(Verdict("failed", "no such stage")) == "no such stage"


def state(verdict: Verdict) -> State:
    return run_stage.fn("download", SimpleNamespace(ask=lambda *_: verdict), False, 0.0)


def test_only_what_another_try_may_mend_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "get_run_logger", lambda: logging.getLogger("toy"))
    assert may_mend(None, None, state(Verdict("failed", "", 75)))
    for other in (
        Verdict("failed", "", 1),
        Verdict("failed", "", -9),
        Verdict("failed", "no such stage"),
    ):
        assert not may_mend(None, None, state(other))


def test_patience_with_another_dvc(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    clock = SimpleNamespace(
        now=0.0,
        monotonic=lambda: clock.now,
        sleep=lambda seconds: setattr(clock, "now", clock.now + seconds),
    )
    monkeypatch.setattr(stage, "time", clock)
    log = logging.getLogger("toy")
    answers = [Verdict("busy"), Verdict("busy"), Verdict("ran")]
    patient = reproduce(
        Reproduce("train"), SimpleNamespace(ask=lambda *_: answers.pop(0)), 10.0, output(), log
    )
    assert patient.outcome == "ran" and len(caplog.messages) == 1
    impatient = reproduce(
        Reproduce("train"),
        SimpleNamespace(ask=lambda *_: Verdict("busy", "PID 12")),
        10.0,
        output(),
        log,
    )
    assert (
        impatient.outcome == "busy"
        and "run this again" in impatient.message
        and "PID 12" in impatient.message
    )
    assert clock.now == pytest.approx(4 + 10)
