"""What a flow and its DVC process say to each other: one JSON object a line.

The DVC process answers on the same stream as the output of the stages; the ASCII record separator in front of a reply tells
the two apart, since no stage prints it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RECORD = "\x1e"

GRACE = 5.0
"""Seconds that an interrupted DVC process has to end its stage and release its locks before it is killed."""


@dataclass(frozen=True)
class Plan:
    """Asks for the stages that `targets` need, in an order that can be followed; no target means all of dvc.yaml."""

    targets: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reproduce:
    """Asks to bring one stage up to date, and that stage alone; `force` runs it whatever DVC knows; `pull` takes what others have computed
    from DVC's remote."""

    stage: str
    force: bool = False
    pull: bool = False


@dataclass(frozen=True)
class Steps:
    """Answers `Plan`: stage names, for each the stages of the plan that it depends on, and a digest of its command and of all params that
    its outcome follows from: two workspaces with the same code and the same digest do the same work."""

    names: list[str]
    needs: dict[str, list[str]]
    digests: dict[str, str] = field(default_factory=dict)


Outcome = Literal["ran", "restored", "unchanged", "failed", "busy"]


@dataclass(frozen=True)
class Verdict:
    """Answers `Reproduce`, and either request when it fails.

    ran, restored (from DVC's cache) or unchanged; failed, with DVC's sentence and, where the command itself failed, its exit code
    (negative: the number of the signal that killed it); busy: another DVC command holds a lock.
    """

    outcome: Outcome
    message: str = ""
    exit_code: int | None = None


Message = Plan | Reproduce | Steps | Verdict
KINDS: dict[str, type] = {kind.__name__: kind for kind in (Plan, Reproduce, Steps, Verdict)}


def encode(message: Message) -> str:
    """One line, without its end."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)})


def decode(line: str) -> Any:
    """The inverse of `encode`; ValueError for anything else."""
    values = json.loads(line)
    if not isinstance(values, dict) or values.get("kind") not in KINDS:
        raise ValueError(f"not a message between the flow and its DVC process: {line!r}")
    try:
        return KINDS[values.pop("kind")](**values)
    except TypeError as error:
        raise ValueError(
            f"not a message between the flow and its DVC process: {line!r} ({error})"
        ) from error
