"""Who runs a flow, and what became of runs whose process was killed: the server still has them as `Running`, nobody else can set it right.

Every run carries the machine and the process that it runs in as a tag; the next one on that machine, and `make ui`, look whether it lives.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Crashed

from flows.dvc_worker.protocol import GRACE
from flows.environment import RUNNER

PREFIX = f"process {socket.gethostname()}:"
KILLED = "the process of this run was killed"
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
ENDED = [StateType.CRASHED, StateType.CANCELLED]
"""What Prefect's own runner makes of a run whose process is gone; it leaves the run's tasks as they were."""
POLL = 0.5


def arrive() -> None:
    """What every flow does first: says which process it is, sets dead runs right, and does not outlive the program that started it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags=sorted({*run.tags, f"{PREFIX}{os.getpid()}"}))
    mark_crashed()
    if runner := os.environ.get(RUNNER):
        threading.Thread(target=follow, args=(int(runner), time.time()), daemon=True).start()


def follow(runner: int, now: float) -> None:
    """Ends this process when `runner` is gone: first in good order, then at once (there may be no server left to report to)."""
    while lives(runner, now):
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2 * GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def mark_crashed() -> int:
    """Sets unfinished runs of dead processes of this machine to `Crashed`, and the tasks that one left; how many runs there were."""
    unfinished, ended = (
        FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=s)))
        for s in (UNFINISHED, ENDED)
    )
    with_tasks = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED))
    )
    with get_client(sync_client=True) as client:
        # The latest first: a server tells of 200 at most.
        latest = FlowRunSort.START_TIME_DESC
        runs = client.read_flow_runs(flow_run_filter=unfinished, sort=latest)
        runs += client.read_flow_runs(
            flow_run_filter=ended, task_run_filter=with_tasks, sort=latest
        )
        dead = [run for run in runs if killed(run)]
        for run in dead:
            for task in client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            ):
                if task.state_type in UNFINISHED:
                    client.set_task_run_state(task.id, Crashed(message=KILLED), force=True)
            if run.state_type in UNFINISHED:
                client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
    return len(dead)


def killed(run: FlowRun) -> bool:
    pids = [int(tag.removeprefix(PREFIX)) for tag in run.tags if tag.startswith(PREFIX)]
    since = run.start_time or run.created
    return (
        bool(pids) and since is not None and not any(lives(pid, since.timestamp()) for pid in pids)
    )


def lives(pid: int, since: float) -> bool:
    """Whether `pid` is still the process that it was at `since` (seconds of the epoch)."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False
