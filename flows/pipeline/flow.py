"""The flow `pipeline`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows import workspace
from flows.dvc_worker.driver import take_worker
from flows.server import pages, stale_runs
from flows.stages import PATIENCE, run_stages
from flows.states import failed_state
from flows.ui.results import publish_results
from tasks.runtime.stage import StageError


@flow(name="pipeline", persist_result=False)
def pipeline(
    stages: list[str] | None = None, force: bool = False, patience: float = PATIENCE
) -> State:
    """Bring the project's outputs up to date, as `dvc repro` does.

    dvc.yaml and params.yaml say what is done. The workspace is the DVC repository of the current
    folder. Runs in the same workspace wait for each other.

    Args:
        stages: Run only these stages and those that they need. By default, run all stages.
        force: Run stages that are up to date as well.
        patience: Seconds to wait for another DVC command in this workspace.

    Returns:
        The final state, which holds a `StageRun` per stage.
    """
    stale_runs.register()
    log = get_run_logger()
    try:
        root = workspace.find_root(Path.cwd())
        with workspace.workspace_lock(root, log.info), take_worker(root) as worker:
            plan = worker.plan(stages or [], log.info)
            state = run_stages(plan, worker, root, force=force, patience=patience)
            if state.is_completed():
                publish_results(root, root, "", root / pages.FOLDER / pages.REPORT)
            return state
    except StageError as error:
        return failed_state(str(error))
