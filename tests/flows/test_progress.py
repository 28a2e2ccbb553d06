"""JSON lines of a stage: all of them reach the artifact in the end, few of them the network and the log."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from uuid import uuid4

import pytest

from flows.ui import progress
from flows.ui.progress import Progress, describe, key, parse


def event(done: int, **more: Any) -> str:
    return json.dumps(
        {
            "event": "progress",
            "stage": "train",
            "what": "iterations",
            "done": done,
            "total": 600,
            **more,
        }
    )


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A Progress, its clock, and the artifact's values so far."""
    clock, written = Clock(), []

    def create(percent: float, key: str, description: str):
        written.append((key, percent))
        return uuid4()

    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(
        progress,
        "update_progress_artifact",
        lambda artifact, percent, description: written.append(percent),
    )
    caplog.set_level(logging.INFO)
    return Progress("train", logging.getLogger("toy")), clock, written


def test_ten_minutes_of_events(watched, caplog):
    follow, clock, written = watched
    for second in range(1, 601):
        clock.now = float(second)
        follow.line(event(second))
    assert written[0] == ("train-iterations", pytest.approx(100 / 600))
    assert len(written) == 1 + 300, "every other second"
    assert written[-1] == 100.0
    assert len(caplog.messages) == 1 + 60, "the first, every tenth second, the last"
    assert caplog.messages[-1] == "iterations: 600 of 600 (100 %)"


def test_what_the_throttle_kept_is_written_at_the_end(watched):
    follow, _, written = watched
    follow.line(event(1))
    follow.line(event(599))
    assert len(written) == 1
    follow.close()
    follow.close()
    assert written[1:] == [pytest.approx(100 * 599 / 600)]


def test_two_kinds_of_work_are_two_artifacts(watched):
    follow, _, written = watched
    follow.line(event(1))
    follow.line(event(1, what="Test episodes (5-way)"))
    assert [name for name, _ in written] == ["train-iterations", "train-test-episodes-5-way"]


def test_an_experiment_has_its_own_artifacts_and_its_training_a_curve(watched):
    _, _, written = watched
    drawn = []
    for name in ("s-inner_lr0.1", "s-inner-lr0-1"):
        follow = Progress("", logging.getLogger("toy"), name)
        for stage in ("train", "evaluate"):
            follow.line(event(1).replace('"train"', f'"{stage}"'))
            follow.line(event(2, loss=0.5).replace('"train"', f'"{stage}"'))
        drawn.append((follow.curve.key, len(follow.curve.rows)))
    keys = [one[0] for one in written if isinstance(one, tuple)]
    assert len(set(keys)) == 4 and keys[2:] == [
        "s-inner-lr0-1-train-iterations",
        "s-inner-lr0-1-evaluate-iterations",
    ]
    assert (
        keys[0].endswith("-train-iterations")
        and [rows for _, rows in drawn] == [1, 1]
        and drawn[0][0] != drawn[1][0]
    )


def test_other_lines_are_logged_as_they_are(watched, caplog):
    follow, _, written = watched
    for line in (
        "words",
        "{",
        '{"a": 1}',
        '{"event": "progress", "done": null, "total": 3}',
        "[1]",
    ):
        follow.line(line)
        assert caplog.messages[-1] == line
    follow.line('{"event": "resume", "stage": "train", "iteration": 150}')
    assert caplog.messages[-1] == "resume, iteration 150"
    assert not written


def test_words():
    said = describe(parse(event(350, rate=12.345, eta=20.4, loss=1.25, accuracy=0.5)))
    assert (
        said == "iterations: 350 of 600 (58 %), 12.35 a second, 20 s left, loss 1.25, accuracy 0.5"
    )
    assert describe({"done": 0, "total": 0}) == "work: 0 of 0 (0 %)"
    assert key("", "train", "Müll & more ") == "train-m-ll-more"
    assert key("anil-shots5", "result") == "anil-shots5-result"
    names = ["a-b", "a_b", "a.b", "A-b"]
    assert len({key(name, "result") for name in names}) == len(names), (
        "experiments never share an artifact"
    )
    assert all(re.fullmatch("[a-z0-9-]+", key(name, "result")) for name in names)
