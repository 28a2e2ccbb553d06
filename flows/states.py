"""How a flow ends in failure: one sentence, and what became of its parts, without a traceback."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed


class Stopped(Exception):
    """The sentence; `results`: what became of the flow's stages or experiments."""

    def __init__(self, message: str, results: Sequence[Any]):
        super().__init__(message)
        self.results = list(results)


def failed(message: str | None, results: Sequence[Any] = ()) -> State:
    said = message or "a part of it failed"
    return Failed(message=said, data=Stopped(said, results))


def results(state: State) -> list[Any]:
    """What a final state of a flow tells of its parts, failed or not."""
    held: Any = state.result(raise_on_failure=False)
    return held.results if isinstance(held, Stopped) else held


def is_news(record: logging.LogRecord) -> bool:
    """Prefect's runner logs the traceback of whatever a flow failed with; of ours the sentence has been said."""
    return not (record.exc_info and isinstance(record.exc_info[1], Stopped))


def without_nothing(record: logging.LogRecord) -> bool:
    """Prefect logs a task that ended in a failed state with the exception at hand, of which there is none: `NoneType: None`."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


for name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(name).addFilter(is_news)
logging.getLogger("prefect.task_runs").addFilter(without_nothing)
