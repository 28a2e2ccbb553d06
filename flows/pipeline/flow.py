"""The flow `pipeline`: bring the outputs of dvc.yaml up to date."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows import workspace
from flows.dvc_worker.driver import get_worker
from flows.server import pages, stale_runs
from flows.stages import LOCK_TIMEOUT, run_stages
from flows.states import failed_state
from flows.ui.results import publish_results
from tasks.runtime.stage import StageError


@flow(name="pipeline", persist_result=False)
def pipeline(
    stages: list[str] | None = None, force: bool = False, lock_timeout: float = LOCK_TIMEOUT
) -> State:
    """Bring the project's outputs up to date, as `dvc repro` does.

    The stages and their configuration come from dvc.yaml and params.yaml. The workspace is the DVC
    repository of the current folder. Runs in the same workspace wait for each other.

    Args:
        stages: Run only these stages and their dependencies. By default, run all stages.
        force: Also run stages that are up to date.
        lock_timeout: Seconds to wait for another DVC command in this workspace.

    Returns:
        The final state, with one `StageRun` per stage.
    """
    stale_runs.register()
    log = get_run_logger()
    try:
        root = workspace.find_root(Path.cwd())
        with workspace.workspace_lock(root, log.info), get_worker(root) as worker:
            plan = worker.plan(stages or [], log.info)
            state = run_stages(plan, worker, root, force=force, lock_timeout=lock_timeout)
            if state.is_completed():
                publish_results(root, root, "", root / pages.FOLDER / pages.REPORT)
            return state
    except StageError as error:
        return failed_state(str(error))
