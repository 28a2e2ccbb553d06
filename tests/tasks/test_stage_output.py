"""Progress output of a stage: lines for a log, JSON for the flow, text for events."""

from __future__ import annotations

import json

import pytest

from tasks.runtime import stage
from tasks.runtime.stage import PROGRESS, ProgressReporter


@pytest.fixture
def lines(monkeypatch, capsys):
    """A function that returns what was printed; without the variable, as in `make run > log`."""
    monkeypatch.delenv(PROGRESS, raising=False)
    return lambda: capsys.readouterr().out.splitlines()


def test_a_log_gets_one_line_per_tenth(lines):
    with ProgressReporter("train", "iterations", 450) as progress:
        for done in range(1, 451):
            progress.update(done, metrics={"loss": 0.31415926, "accuracy": 0.89})
    printed = lines()
    assert [line.split(",")[0] for line in printed] == [
        f"train: {share} % ({450 * share // 100} of 450 iterations)" for share in range(10, 101, 10)
    ]
    assert printed[4].startswith(
        "train: 50 % (225 of 450 iterations), loss 0.3142, accuracy 0.89, "
    ) and printed[4].endswith(" it/s")


def test_large_steps_print_where_they_end(lines):
    with ProgressReporter("evaluate", "episodes", 20) as progress:
        for done in (8, 16, 20):
            progress.update(done)
    assert [line.split(",")[0] for line in lines()] == [
        "evaluate: 40 % (8 of 20 episodes)",
        "evaluate: 80 % (16 of 20 episodes)",
        "evaluate: 100 % (20 of 20 episodes)",
    ]


def test_a_total_may_be_known_late(lines):
    with ProgressReporter("download", "file.zip", 0) as progress:
        progress.update(0)
        progress.update(30, total=100)
    assert [line.split(",")[0] for line in lines()] == [
        "download: 30 % (30 of 100 file.zip)",
    ]


def test_the_flow_gets_json_at_most_once_a_second(lines, monkeypatch):
    monkeypatch.setenv(PROGRESS, "json")
    monkeypatch.setattr("time.monotonic", iter([100.0, 100.2, 100.7, 101.1, 101.3]).__next__)
    with ProgressReporter("train", "iterations", 4) as progress:
        for done in range(1, 5):
            progress.update(done, metrics={"loss": 0.12345678})
    first, *rest = [json.loads(line) for line in lines()]
    assert first == {
        "event": "progress",
        "stage": "train",
        "what": "iterations",
        "done": 1,
        "total": 4,
        "rate": 5.0,
        "eta": 0.6,
        "loss": 0.123457,
    }
    assert [event["done"] for event in rest] == [4], "the last event is always reported"


def test_a_silent_reporter_prints_nothing(lines, monkeypatch):
    for value in ("", "json"):
        monkeypatch.setenv(PROGRESS, value)
        with ProgressReporter("train", "iterations", 2, silent=True) as progress:
            progress.update(2)
    assert lines() == [] and progress.done == 2


def test_events_are_words_in_a_log_and_json_for_the_flow(lines, monkeypatch):
    stage.emit("plan", stage="train", mode="batched", tasks_at_once=4)
    monkeypatch.setenv(PROGRESS, "json")
    stage.emit("plan", stage="train", mode="batched", tasks_at_once=4)
    text, event = lines()
    assert text == "train: plan: mode batched, tasks at once 4"
    assert json.loads(event) == {
        "event": "plan",
        "stage": "train",
        "mode": "batched",
        "tasks_at_once": 4,
    }
