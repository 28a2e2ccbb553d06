"""Final states of failed flows: an error message and records of the stages, but no traceback."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed


class FlowFailure(Exception):
    """The result of a failed flow.

    Attributes:
        records: Records of the flow's stages or experiments.
    """

    def __init__(self, message: str, records: Sequence[Any]):
        super().__init__(message)
        self.records = list(records)


def failed_state(message: str, records: Sequence[Any] = ()) -> State:
    """Return the final state of a failed flow."""
    return Failed(message=message, data=FlowFailure(message, records))


def read_records(state: State) -> list[Any]:
    """Return the records of a flow's stages or experiments from its final state."""
    data: Any = state.result(raise_on_failure=False)
    return data.records if isinstance(data, FlowFailure) else data


def is_not_flow_failure(record: logging.LogRecord) -> bool:
    """Filter out tracebacks that Prefect's runner logs for failures that are in the log already."""
    return not (record.exc_info and isinstance(record.exc_info[1], FlowFailure))


def clear_empty_exception(record: logging.LogRecord) -> bool:
    """Suppress the 'NoneType: None' that Prefect logs for tasks that return a failed state."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


for _logger in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_logger).addFilter(is_not_flow_failure)
logging.getLogger("prefect.task_runs").addFilter(clear_empty_exception)
