"""Progress of a stage: throttled updates of artifacts and of the log."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from uuid import uuid4

import pytest

from flows.ui import progress as module
from flows.ui.progress import Progress, artifact_key, describe_event, parse_event


def event(done: int, **more: Any) -> str:
    fields = {"event": "progress", "stage": "train", "what": "iterations", "done": done}
    return json.dumps({**fields, "total": 600, **more})


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A Progress, its clock, and the artifacts' values so far."""
    clock, written = Clock(), []

    def create(percent: float, key: str, description: str):
        written.append((key, percent))
        return uuid4()

    def update(artifact: object, percent: float, description: str) -> None:
        written.append(percent)

    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "create_progress_artifact", create)
    monkeypatch.setattr(module, "update_progress_artifact", update)
    caplog.set_level(logging.INFO)
    return Progress("train", logging.getLogger("toy")), clock, written


def test_ten_minutes_of_events(watched, caplog):
    progress, clock, written = watched
    for second in range(1, 601):
        clock.now = float(second)
        progress.write(event(second))
    assert written[0] == ("train-iterations", pytest.approx(100 / 600))
    assert len(written) == 1 + 300, "every other second"
    assert written[-1] == 100.0
    assert len(caplog.messages) == 1 + 60, "the first, every tenth second, the last"
    assert caplog.messages[-1] == "iterations: 600 of 600 (100 %)"


def test_throttled_values_are_written_at_the_end(watched):
    progress, _, written = watched
    progress.write(event(1))
    progress.write(event(599))
    assert len(written) == 1
    progress.close()
    progress.close()
    assert written[1:] == [pytest.approx(100 * 599 / 600)]


def test_each_kind_of_work_has_its_artifact(watched):
    progress, _, written = watched
    progress.write(event(1))
    progress.write(event(1, what="Test episodes (5-way)"))
    assert [key for key, _ in written] == ["train-iterations", "train-test-episodes-5-way"]


def test_each_experiment_has_artifacts_and_a_curve_of_its_own(watched):
    _, _, written = watched
    curves = []
    for name in ("s-inner_lr0.1", "s-inner-lr0-1"):
        progress = Progress("", logging.getLogger("toy"), name)
        for stage in ("train", "evaluate"):
            progress.write(event(1, stage=stage))
            progress.write(event(2, stage=stage, loss=0.5))
        curves.append(progress.curve)
    keys = [value[0] for value in written if isinstance(value, tuple)]
    assert keys[0].endswith("-train-iterations") and len(set(keys)) == 4
    assert keys[2:] == ["s-inner-lr0-1-train-iterations", "s-inner-lr0-1-evaluate-iterations"]
    assert [len(curve.points) for curve in curves] == [1, 1]
    assert curves[0].key != curves[1].key


def test_other_lines_are_logged_unchanged(watched, caplog):
    progress, _, written = watched
    no_numbers = '{"event": "progress", "done": null, "total": 3}'
    for line in ("words", "{", '{"a": 1}', no_numbers, "[1]"):
        progress.write(line)
        assert caplog.messages[-1] == line
    progress.write('{"event": "resume", "stage": "train", "iteration": 150}')
    assert caplog.messages[-1] == "resume, iteration 150"
    assert not written


def test_events_in_words():
    text = describe_event(parse_event(event(350, rate=12.345, eta=20.4, loss=1.25, accuracy=0.5)))
    assert text == (
        "iterations: 350 of 600 (58 %), 12.35 per second, 20 s left, loss 1.25, accuracy 0.5"
    )
    assert describe_event({"done": 0, "total": 0}) == "work: 0 of 0 (0 %)"


def test_keys_of_artifacts():
    assert artifact_key("", "train", "Müll & more ") == "train-m-ll-more"
    assert artifact_key("anil-shots5", "result") == "anil-shots5-result"
    names = ["a-b", "a_b", "a.b", "A-b"]
    keys = {artifact_key(name, "result") for name in names}
    assert len(keys) == len(names), "experiments never share an artifact"
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in keys)
