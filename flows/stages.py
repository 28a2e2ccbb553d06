"""Stages under Prefect: the one function that brings a stage up to date, and what is retried."""

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
from flows.dvc_worker.protocol import StagePlan, StageRequest, Verdict
from flows.dvc_worker.stage_output import StageOutput
from flows.states import failed_state
from flows.ui.progress import Progress
from flows.workspace import work_lock
from tasks.runtime.stage import TRY_AGAIN, StageError

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [2.0, 20.0]
"""Seconds before each retry of a temporary failure, such as a download that was cut off."""

PATIENCE = 300.0
"""Default seconds to wait for another DVC command that works in the same workspace."""

BUSY_POLL_SECONDS = 2.0

TEMPORARY_FAILURE = "TemporaryFailure"
"""Name of the state of a task that a retry may mend."""


class TemporaryStageError(StageError):
    """A stage has failed, and a retry may succeed."""

    temporary = True


@dataclass(frozen=True)
class StageRun:
    """What became of a stage in a flow run.

    Attributes:
        stage: Its name.
        state: Name of its final state, or "not run" if an earlier stage failed.
        seconds: Wall time.
    """

    stage: str
    state: str
    seconds: float = 0.0


def is_temporary(task: Any, run: Any, state: State) -> bool:
    """Prefect's condition for a retry."""
    return state.name == TEMPORARY_FAILURE


def retrying_task(name: str, run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator for Prefect tasks that retry temporary failures.

    Prefect caches nothing: DVC is the one cache.
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
    """The final state of a task that failed: one sentence, without a traceback."""
    return Failed(name=TEMPORARY_FAILURE if error.temporary else "Failed", message=str(error))


def bring_up_to_date(
    request: StageRequest,
    worker: Worker,
    root: Path,
    digest: str,
    on_line: Callable[[str], None],
    patience: float = PATIENCE,
) -> Verdict:
    """Bring one stage up to date through DVC.

    Waits for runs that do the same work in other workspaces of the checkout, and for other DVC
    commands in this workspace.

    Args:
        request: The stage.
        worker: The DVC process of the workspace.
        root: The checkout that all workspaces share.
        digest: The stage's digest from the `StagePlan`.
        on_line: Called with every line that the stage prints.
        patience: Seconds to wait for another DVC command.

    Returns:
        The verdict: "ran", "restored" or "unchanged".

    Raises:
        TemporaryStageError: The stage failed, and a retry may succeed.
        StageError: The stage failed, or another DVC command kept the workspace busy.
    """
    output = StageOutput(on_line)
    try:
        with work_lock(root, digest):
            verdict = _reproduce_when_free(request, worker, output, patience)
    except WorkerError as error:
        raise StageError(f"{request.stage}: {error}") from error
    if verdict.outcome in ("failed", "busy"):
        kind = TemporaryStageError if verdict.exit_code == TRY_AGAIN else StageError
        raise kind(f"{request.stage}: {output.explain(verdict)}")
    return verdict


def _reproduce_when_free(
    request: StageRequest, worker: Worker, output: StageOutput, patience: float
) -> Verdict:
    deadline = time.monotonic() + patience
    waiting = False
    while True:
        verdict: Verdict = worker.ask(request, output.write)
        if verdict.outcome != "busy":
            return verdict
        if time.monotonic() >= deadline:
            reason = "another DVC command works in this workspace: run this again when it has ended"
            return Verdict("busy", f"{reason} ({verdict.message})")
        if not waiting:
            output.on_line(
                "another DVC command works in this workspace;"
                f" waiting up to {patience:.0f} s for it to end"
            )
            waiting = True
        time.sleep(BUSY_POLL_SECONDS)


@retrying_task("stage", "{request.stage}")
def run_stage(
    request: StageRequest,
    worker: Worker,
    root: Path,
    digest: str,
    patience: float = PATIENCE,
    experiment: str = "",
) -> State:
    """Bring one stage up to date, with its output in the log and its progress in artifacts.

    Returns:
        `Cached` if DVC skipped or restored the stage, `Completed` if it ran, or a failed state.
    """
    progress = Progress(request.stage, get_run_logger(), experiment)
    start = time.monotonic()
    try:
        verdict = bring_up_to_date(request, worker, root, digest, progress.write, patience)
    except StageError as error:
        return failed_task_state(error)
    finally:
        progress.close()
    if verdict.outcome == "ran":
        return Completed(message=f"ran in {time.monotonic() - start:.1f} s")
    restored = verdict.outcome == "restored"
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
    patience: float = PATIENCE,
    experiment: str = "",
) -> State:
    """Run one task per stage, in order, until the first one fails.

    Args:
        plan: The stages.
        worker: The DVC process of the workspace.
        root: The checkout that all workspaces share.
        force: Run stages that are up to date as well.
        pull: Fetch results that others have computed from DVC's remote.
        patience: Seconds to wait for another DVC command.
        experiment: Prefix of the keys of the stages' artifacts.

    Returns:
        The flow's final state, which holds a `StageRun` per stage.
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
            patience,
            experiment,
            wait_for=[states[need] for need in plan.needs[stage]],
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
