"""The stages of dvc.yaml as a Prefect flow: `python -m flows.pipeline`, or `from flows.pipeline import pipeline`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Prefect reads its settings when it is imported, so the command sets them first and then imports this module by its name.
    from flows.pipeline_command import main

    sys.exit(main())

import time
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import workspace
from flows.dvc_worker import driver
from flows.dvc_worker.driver import Worker, WorkerError
from flows.dvc_worker.protocol import Plan, Steps, Verdict
from flows.server import pages, stale_runs
from flows.stage import run_stage
from flows.states import failed
from flows.ui.results import show
from tasks.runtime.stage import StageError


@dataclass(frozen=True)
class Result:
    """What became of one stage: the name of its final state ('not run' where an earlier one failed) and its seconds."""

    stage: str
    state: str
    seconds: float = 0.0


@flow(name="pipeline", persist_result=False)
def pipeline(
    stages: list[str] | None = None, force: bool = False, patience: float = 300.0
) -> State:
    """Brings the project's outputs up to date, as `dvc repro` does: order and configuration are dvc.yaml's and params.yaml's.

    stages: go only as far as these stages (and what they need); None means all
    force: run every one of them, also those that DVC knows to be up to date
    patience: seconds to wait for another DVC command in this workspace

    The final state holds a `Result` for each stage. One run at a time works in a workspace (the current folder's DVC repository).
    """
    stale_runs.arrive()
    log = get_run_logger()
    results: list[Result] = []
    try:
        root = workspace.find_root(Path.cwd())
        with workspace.lock(root, log.info), driver.take(root) as worker:
            steps = worker.ask(Plan(stages or []), log.info)
            if isinstance(steps, Verdict):
                return failed(f"dvc.yaml: {steps.message}", results)
            state = follow(steps, worker, force, patience, results, root)
            if state.is_completed():
                show(root, root, "", root / pages.FOLDER / pages.REPORT)
            return state
    except (StageError, WorkerError) as error:
        return failed(str(error), results)


def follow(
    steps: Steps,
    worker: Worker,
    force: bool,
    patience: float,
    results: list[Result],
    root: Path,
    experiment: str = "",
    pull: bool = False,
) -> State:
    """The stages in order, up to the first that fails; root: of the checkout that all workspaces share; `experiment`: begins the keys of
    the stages' artifacts; `pull`: as in `Reproduce`."""
    states: dict[str, State] = {}
    for position, stage in enumerate(steps.names):
        start = time.monotonic()
        needs = [states[need] for need in steps.needs[stage]]
        with workspace.alone(root, steps.digests.get(stage, stage)):
            state = run_stage(
                stage, worker, force, patience, experiment, pull, wait_for=needs, return_state=True
            )
        results.append(Result(stage, state.name or "", time.monotonic() - start))
        if not state.is_completed():
            results += [Result(later, "not run") for later in steps.names[position + 1 :]]
            return failed(state.message, results)
        states[stage] = state
    cached = sum(result.state == "Cached" for result in results)
    return Completed(message=f"{len(results) - cached} stages ran, {cached} cached", data=results)
