"""Messages between a flow and its DVC process."""

import pytest

from flows.dvc_worker.protocol import (
    PlanRequest,
    StagePlan,
    StageRequest,
    StageResult,
    decode,
    encode,
)


@pytest.mark.parametrize(
    "message",
    [
        PlanRequest(["train"]),
        StageRequest("train", force=True),
        StagePlan(["a", "b"], {"a": [], "b": ["a"]}, {"a": "12", "b": "34"}),
        StageResult("failed", 'two\nlines, "quotes", \x1e and ü', -9),
    ],
)
def test_round_trip(message):
    line = encode(message)
    assert "\n" not in line and "\x1e" not in line
    assert decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"kind": "Popen"}',
        '{"kind": "PlanRequest", "no": 1}',
        '{"kind": "StageRequest"}',
        "words",
    ],
)
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError):
        decode(line)
