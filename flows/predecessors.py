"""Runs whose process was killed: their database still says `Running`, nobody else can set it right.

Only for the database in the workspace's own Prefect home, where every run carries the process that it runs in as a tag.
"""

from __future__ import annotations

import os
from datetime import datetime

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

PREFIX = "process "
KILLED = "the process of this run was killed"
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def tag() -> str:
    return f"{PREFIX}{os.getpid()}"


def mark_crashed() -> int:
    """Sets unfinished runs of dead processes to `Crashed`; how many there were."""
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)))
    with get_client(sync_client=True) as client:
        dead = [run for run in client.read_flow_runs(flow_run_filter=unfinished) if killed(run)]
        for run in dead:
            for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))):
                if task.state_type in UNFINISHED:
                    client.set_task_run_state(task.id, Crashed(message=KILLED), force=True)
            client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
    return len(dead)


def killed(run: FlowRun) -> bool:
    pids = [int(tag.removeprefix(PREFIX)) for tag in run.tags if tag.startswith(PREFIX)]
    return bool(pids) and run.created is not None and not any(lives(pid, run.created) for pid in pids)


def lives(pid: int, since: datetime) -> bool:
    """Whether `pid` is still the process that it was at `since`."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since.timestamp() + 1
    except psutil.NoSuchProcess:
        return False
