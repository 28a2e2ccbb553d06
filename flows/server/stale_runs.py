"""Stale runs: flow runs whose process was killed but that a server still lists as `Running`.

Every run is tagged with its host and process id. The next run on that host, and `make ui`, check
whether the process is alive, and otherwise set the run to `Crashed`.
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

from flows.dvc_worker.protocol import GRACE_SECONDS
from flows.environment import PARENT_PID
from flows.server.signals import resend_discarded_signals

TAG_PREFIX = f"process {socket.gethostname()}:"
KILLED = "the process of this run was killed"
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
ENDED_BY_RUNNER = [StateType.CRASHED, StateType.CANCELLED]
"""States that Prefect's runner sets for dead runs. It leaves their tasks unfinished."""
POLL_SECONDS = 0.5


def register() -> None:
    """Tag the flow run with this process. Every flow calls this first.

    Also marks stale runs of this host, and ends this process together with the one that serves
    deployments.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags=sorted({*run.tags, f"{TAG_PREFIX}{os.getpid()}"}))
    mark_crashed()
    resend_discarded_signals()  # a served flow does not start through a command
    if parent := os.environ.get(PARENT_PID):
        arguments = (int(parent), time.time())
        threading.Thread(target=exit_with_process, args=arguments, daemon=True).start()


def exit_with_process(pid: int, since: float) -> None:
    """End this process once the process `pid` has ended.

    The second signal is needed if there is no server to which the state could be reported.
    """
    while is_alive(pid, since):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2 * GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def mark_crashed() -> int:
    """Set stale runs of this host and their tasks to `Crashed`, and return the number of runs."""
    unfinished, ended = (
        FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
        for types in (UNFINISHED, ENDED_BY_RUNNER)
    )
    with_unfinished_task = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED))
    )
    latest_first = FlowRunSort.START_TIME_DESC  # a server returns at most 200 runs
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=unfinished, sort=latest_first)
        runs += client.read_flow_runs(
            flow_run_filter=ended, task_run_filter=with_unfinished_task, sort=latest_first
        )
        stale = [run for run in runs if is_stale(run)]
        for run in stale:
            for task in client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            ):
                if task.state_type in UNFINISHED:
                    client.set_task_run_state(task.id, Crashed(message=KILLED), force=True)
            if run.state_type in UNFINISHED:
                client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
    return len(stale)


def is_stale(run: FlowRun) -> bool:
    """Whether the run was on this host and all its processes have ended."""
    tags = [tag for tag in run.tags if tag.startswith(TAG_PREFIX)]
    pids = [int(tag.removeprefix(TAG_PREFIX)) for tag in tags]
    since = run.start_time or run.created
    if not pids or since is None:
        return False
    return not any(is_alive(pid, since.timestamp()) for pid in pids)


def is_alive(pid: int, since: float) -> bool:
    """Whether `pid` is still the process that it was at `since` (seconds since the epoch)."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False
