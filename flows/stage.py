"""One DVC stage as one Prefect task. It ends `Cached` where DVC skipped or restored the stage, `Completed` where the stage ran."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.dvc_worker.driver import Worker, WorkerError
from flows.dvc_worker.protocol import Reproduce, Verdict
from flows.dvc_worker.stage_output import Output
from flows.ui.progress import Log, Progress
from tasks.runtime.stage import TRY_AGAIN

RETRY_DELAYS = [2.0, 20.0]
BUSY_POLL = 2.0

TEMPORARY = "TemporaryFailure"


def may_mend(task: Any, run: Any, state: State) -> bool:
    return state.name == TEMPORARY


@task(
    name="stage",
    task_run_name="{stage}",
    cache_policy=NO_CACHE,  # DVC is the one cache
    persist_result=False,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=may_mend,
)
def run_stage(
    stage: str,
    worker: Worker,
    force: bool,
    patience: float,
    experiment: str = "",
    pull: bool = False,
) -> State:
    """Brings one stage up to date through DVC, its output live in the log and its progress in artifacts.

    `patience`: seconds to wait for another DVC command that holds this workspace's locks; `experiment`: begins the keys of its artifacts;
    `pull`: as in `Reproduce`. A failure is a state, not an exception: one sentence, no traceback of ours around it.
    """
    log = get_run_logger()
    progress = Progress(stage, log, experiment)
    output = Output(progress.line)
    start = time.monotonic()
    try:
        verdict = reproduce(Reproduce(stage, force, pull), worker, patience, output, log)
    except WorkerError as error:
        return Failed(message=f"{stage}: {error}")
    finally:
        progress.close()
    if verdict.outcome in ("failed", "busy"):
        name = TEMPORARY if verdict.exit_code == TRY_AGAIN else "Failed"
        return Failed(name=name, message=f"{stage}: {output.reason(verdict)}")
    if verdict.outcome == "ran":
        return Completed(message=f"ran in {time.monotonic() - start:.1f} s")
    return Completed(
        name="Cached",
        message="restored from DVC's cache" if verdict.outcome == "restored" else "did not change",
    )


def reproduce(
    request: Reproduce, worker: Worker, patience: float, output: Output, log: Log
) -> Verdict:
    deadline, told = time.monotonic() + patience, False
    while True:
        verdict: Verdict = worker.ask(request, output.line)
        if verdict.outcome != "busy":
            return verdict
        if time.monotonic() >= deadline:
            return Verdict(
                "busy",
                f"another DVC command works in this workspace; run this again when it is done ({verdict.message})",
            )
        if not told:
            log.warning(
                "another DVC command works in this workspace; waiting up to %.0f s for it", patience
            )
            told = True
        time.sleep(BUSY_POLL)
