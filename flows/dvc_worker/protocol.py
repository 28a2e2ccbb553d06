"""Messages between a flow and its DVC process: one JSON object per line.

The DVC process replies on the stream that also carries the output of the stages. Replies start with
an ASCII record separator, which no stage prints.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RECORD_SEPARATOR = "\x1e"

GRACE_SECONDS = 5.0
"""Seconds that an interrupted DVC process has to end its stage and release its locks."""


@dataclass(frozen=True)
class PlanRequest:
    """A request for the stages that the targets need, in topological order.

    Attributes:
        targets: Names of stages. If empty, all stages of dvc.yaml.
    """

    targets: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageRequest:
    """A request to bring a single stage up to date.

    Attributes:
        stage: Name of the stage.
        force: Run it even if its result is cached.
        pull: Pull results computed elsewhere from the DVC remote.
    """

    stage: str
    force: bool = False
    pull: bool = False


@dataclass(frozen=True)
class StagePlan:
    """The reply to `PlanRequest`.

    Attributes:
        stages: Names of the stages, in the order in which they run.
        dependencies: Stages that each stage depends on.
        digests: Digest of each stage's command and of all params that its result depends on.
            Workspaces with the same code and digest do the same work.
    """

    stages: list[str]
    dependencies: dict[str, list[str]]
    digests: dict[str, str]


Outcome = Literal["ran", "restored", "unchanged", "failed", "busy"]


@dataclass(frozen=True)
class StageResult:
    """The reply to a `StageRequest`, and to any request that fails.

    Attributes:
        outcome: "ran", "restored" (from DVC's cache), "unchanged", "failed", or "busy" if another
            DVC command holds a lock.
        message: DVC's error message.
        exit_code: Exit code of the stage's command if it failed. -N if signal N killed it.
    """

    outcome: Outcome
    message: str = ""
    exit_code: int | None = None


Message = PlanRequest | StageRequest | StagePlan | StageResult
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (PlanRequest, StageRequest, StagePlan, StageResult)
}


def encode(message: Message) -> str:
    """Encode a message as one line, without the line break."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)})


def decode(line: str) -> Any:
    """Decode a message encoded by `encode`.

    Raises:
        ValueError: The line is not a valid message.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("kind") not in KINDS:
        raise ValueError(f"{line!r} is not a valid message")
    try:
        return KINDS[fields.pop("kind")](**fields)
    except TypeError as error:
        raise ValueError(f"{line!r} is not a valid message: {error}") from error
