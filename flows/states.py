"""Final states of flows that fail: one sentence, and what became of the parts, but no traceback."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed


class FlowFailure(Exception):
    """What a failed state holds.

    Attributes:
        parts: What became of the flow's stages or experiments.
    """

    def __init__(self, message: str, parts: Sequence[Any]):
        super().__init__(message)
        self.parts = list(parts)


def failed_state(message: str, parts: Sequence[Any] = ()) -> State:
    """Return the final state of a flow that failed."""
    return Failed(message=message, data=FlowFailure(message, parts))


def read_parts(state: State) -> list[Any]:
    """Return what a flow's final state holds about its stages or experiments."""
    data: Any = state.result(raise_on_failure=False)
    return data.parts if isinstance(data, FlowFailure) else data


def is_no_flow_failure(record: logging.LogRecord) -> bool:
    """A log filter: Prefect's runner logs the traceback of a failure that is in the log already."""
    return not (record.exc_info and isinstance(record.exc_info[1], FlowFailure))


def clear_empty_exception(record: logging.LogRecord) -> bool:
    """A log filter: Prefect logs 'NoneType: None' for tasks that return a failed state."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


for _logger in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_logger).addFilter(is_no_flow_failure)
logging.getLogger("prefect.task_runs").addFilter(clear_empty_exception)
