"""Messages between a flow and its DVC process: one JSON object per line.

The DVC process replies on the stream that also carries the output of the stages. An ASCII record
separator in front of a reply tells the two apart, since no stage prints it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RECORD_SEPARATOR = "\x1e"

GRACE_SECONDS = 5.0
"""Time for an interrupted DVC process to end its stage and release its locks."""


@dataclass(frozen=True)
class PlanRequest:
    """Asks for the stages that the targets need, in an order that respects dependencies.

    Attributes:
        targets: Names of stages. Empty means all stages of dvc.yaml.
    """

    targets: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageRequest:
    """Asks to bring a single stage up to date.

    Attributes:
        stage: Its name.
        force: Run it even if DVC knows its result.
        pull: Fetch results that others have computed from DVC's remote.
    """

    stage: str
    force: bool = False
    pull: bool = False


@dataclass(frozen=True)
class StagePlan:
    """The reply to `PlanRequest`.

    Attributes:
        stages: Names of the stages in the order to run them.
        needs: The stages of the plan that each stage depends on.
        digests: A digest of each stage's command and of all params that its result depends on.
            Workspaces with the same code and digest do the same work.
    """

    stages: list[str]
    needs: dict[str, list[str]]
    digests: dict[str, str]


Outcome = Literal["ran", "restored", "unchanged", "failed", "busy"]


@dataclass(frozen=True)
class Verdict:
    """The reply to `StageRequest`, and to either request if it fails.

    Attributes:
        outcome: "ran", "restored" (from DVC's cache), "unchanged", "failed", or "busy" if another
            DVC command holds a lock.
        message: DVC's reason for a failure.
        exit_code: Exit code of the stage's command if that failed; -N if signal N killed it.
    """

    outcome: Outcome
    message: str = ""
    exit_code: int | None = None


Message = PlanRequest | StageRequest | StagePlan | Verdict
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (PlanRequest, StageRequest, StagePlan, Verdict)
}


def encode(message: Message) -> str:
    """Return the message as one line, without the line break."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)})


def decode(line: str) -> Any:
    """Return the message that `encode` made a line of.

    Raises:
        ValueError: The line is no such message.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("kind") not in KINDS:
        raise ValueError(f"{line!r} is no message between a flow and its DVC process")
    try:
        return KINDS[fields.pop("kind")](**fields)
    except TypeError as error:
        raise ValueError(
            f"{line!r} is no message between a flow and its DVC process: {error}"
        ) from error
