"""Stages as Prefect tasks: bring a stage up to date through DVC, and retry temporary failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.dvc_worker.driver import Worker, WorkerError
from flows.dvc_worker.protocol import StagePlan, StageRequest, StageResult
from flows.dvc_worker.stage_output import StageOutput
from flows.states import failed_state
from flows.ui.progress import Progress
from flows.workspace import work_lock
from tasks.runtime.stage import TRY_AGAIN, StageError

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [2.0, 20.0]
"""Seconds before each retry of a temporary failure, such as an interrupted download."""

LOCK_TIMEOUT = 300.0
"""Default number of seconds to wait for another DVC command in the same workspace."""

BUSY_POLL_SECONDS = 2.0

TEMPORARY_FAILURE = "TemporaryFailure"
"""Name of the state of a failed task that may succeed when it is retried."""


class TemporaryStageError(StageError):
    """A stage has failed, and a retry may succeed."""

    temporary = True


@dataclass(frozen=True)
class StageRun:
    """The outcome of a stage in a flow run.

    Attributes:
        stage: Name of the stage.
        state: Name of its final state, or "not run" if an earlier stage failed.
        seconds: Wall time.
    """

    stage: str
    state: str
    seconds: float = 0.0


def is_temporary(task: Any, run: Any, state: State) -> bool:
    """Whether Prefect should retry a task that ended in this state."""
    return state.name == TEMPORARY_FAILURE


def retrying_task(name: str, run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator for Prefect tasks that retry temporary failures.

    Prefect's own caching is off, because DVC caches the results.
    """
    return task(
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=is_temporary,
    )


def failed_task_state(error: StageError) -> State:
    """Return the final state of a failed task: an error message without a traceback."""
    return Failed(name=TEMPORARY_FAILURE if error.temporary else "Failed", message=str(error))


def bring_up_to_date(
    request: StageRequest,
    worker: Worker,
    root: Path,
    digest: str,
    on_line: Callable[[str], None],
    lock_timeout: float = LOCK_TIMEOUT,
) -> StageResult:
    """Bring one stage up to date through DVC.

    Waits for runs of the same stage with the same inputs in other workspaces of the checkout, and
    for other DVC commands in this workspace.

    Args:
        request: Stage to bring up to date.
        worker: The DVC process of the workspace.
        root: Checkout that all workspaces share.
        digest: Digest of the stage from the `StagePlan`.
        on_line: Called with each line that the stage prints.
        lock_timeout: Seconds to wait for another DVC command.

    Returns:
        The result, with the outcome "ran", "restored" or "unchanged".

    Raises:
        TemporaryStageError: The stage failed, and a retry may succeed.
        StageError: The stage failed, or another DVC command did not end within `lock_timeout`.
    """
    output = StageOutput(on_line)
    try:
        with work_lock(root, digest):
            result = _reproduce_when_free(request, worker, output, lock_timeout)
    except WorkerError as error:
        raise StageError(f"{request.stage}: {error}") from error
    if result.outcome in ("failed", "busy"):
        kind = TemporaryStageError if result.exit_code == TRY_AGAIN else StageError
        raise kind(f"{request.stage}: {output.describe_failure(result)}")
    return result


def _reproduce_when_free(
    request: StageRequest, worker: Worker, output: StageOutput, lock_timeout: float
) -> StageResult:
    deadline = time.monotonic() + lock_timeout
    waiting = False
    while True:
        result: StageResult = worker.send(request, output.write)
        if result.outcome != "busy":
            return result
        if time.monotonic() >= deadline:
            reason = "another DVC command is running in this workspace; try again when it has ended"
            return StageResult("busy", f"{reason} ({result.message})")
        if not waiting:
            output.on_line(
                "another DVC command is running in this workspace;"
                f" waiting up to {lock_timeout:.0f} s for it to end"
            )
            waiting = True
        time.sleep(BUSY_POLL_SECONDS)


@retrying_task("stage", "{request.stage}")
def run_stage(
    request: StageRequest,
    worker: Worker,
    root: Path,
    digest: str,
    lock_timeout: float = LOCK_TIMEOUT,
    experiment: str = "",
) -> State:
    """Bring one stage up to date, and publish its output in the log and in progress artifacts.

    Returns:
        `Cached` if DVC skipped or restored the stage, `Completed` if it ran, or a failed state.
    """
    progress = Progress(request.stage, get_run_logger(), experiment)
    start = time.monotonic()
    try:
        result = bring_up_to_date(request, worker, root, digest, progress.write, lock_timeout)
    except StageError as error:
        return failed_task_state(error)
    finally:
        progress.close()
    if result.outcome == "ran":
        return Completed(message=f"ran in {time.monotonic() - start:.1f} s")
    restored = result.outcome == "restored"
    return Completed(
        name="Cached", message="restored from DVC's cache" if restored else "up to date"
    )


def run_stages(
    plan: StagePlan,
    worker: Worker,
    root: Path,
    *,
    force: bool = False,
    pull: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
    experiment: str = "",
) -> State:
    """Run one task per stage, in order, until the first one fails.

    Args:
        plan: Stages to run.
        worker: The DVC process of the workspace.
        root: Checkout that all workspaces share.
        force: Also run stages that are up to date.
        pull: Pull results computed elsewhere from the DVC remote.
        lock_timeout: Seconds to wait for another DVC command.
        experiment: Prefix of the keys of the stages' artifacts.

    Returns:
        The final state of the flow, with one `StageRun` per stage.
    """
    runs: list[StageRun] = []
    states: dict[str, State] = {}
    for position, stage in enumerate(plan.stages):
        start = time.monotonic()
        state: State = run_stage(
            StageRequest(stage, force, pull),
            worker,
            root,
            plan.digests[stage],
            lock_timeout,
            experiment,
            wait_for=[states[dependency] for dependency in plan.dependencies[stage]],
            return_state=True,
        )
        runs.append(StageRun(stage, state.name or "", time.monotonic() - start))
        if not state.is_completed():
            runs += [StageRun(later, "not run") for later in plan.stages[position + 1 :]]
            return failed_state(state.message or f"{stage} failed", runs)
        states[stage] = state
    cached = sum(run.state == "Cached" for run in runs)
    ran = len(runs) - cached
    message = f"{ran} {'stage' if ran == 1 else 'stages'} ran, {cached} cached"
    return Completed(message=message, data=runs)
