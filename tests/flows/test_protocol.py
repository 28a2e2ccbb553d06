"""Requests and replies survive the line between the processes; nothing else is taken for one."""

import pytest

from flows.dvc_worker.protocol import Plan, Reproduce, Steps, Verdict, decode, encode


@pytest.mark.parametrize(
    "message",
    [
        Plan(["train"]),
        Reproduce("train", force=True),
        Steps(["a", "b"], {"a": [], "b": ["a"]}),
        Verdict("failed", 'two\nlines, "quotes", \x1e and ü', -9),
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
        '{"kind": "Plan", "no": 1}',
        '{"kind": "Reproduce"}',
        "words",
    ],
)
def test_anything_else_is_refused(line):
    with pytest.raises(ValueError):
        decode(line)
