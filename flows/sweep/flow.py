"""The flow `sweep`: run the points of a sweep file as experiments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from episodic.core.cores import count_cores
from flows import form, workspace
from flows.experiments.experiment import check_sharing, is_done, push_experiments, run_experiment
from flows.experiments.points import Changes, Point, apply_changes, read_points
from flows.experiments.worktree import Base, read_base
from flows.server import stale_runs
from flows.stages import failed_task_state, retrying_task
from flows.states import failed_state
from flows.ui.progress import Log, Progress, artifact_key
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

RunnerName = Literal["threads", "dask", "ray"]

WAITING, ALREADY_DONE, DONE, FAILED = "waiting", "already done", "done", "failed"


@dataclass
class SweepRow:
    """One point in the table of a sweep.

    Attributes:
        experiment: Name of the experiment.
        state: "waiting", "already done", "done" or "failed".
        time: Duration, such as "12.3 s".
        reason: Reason for a failure.
    """

    experiment: str
    state: str = WAITING
    time: str = ""
    reason: str = ""


@retrying_task("experiment", "{name}")
def run_point(base: Base, name: str, changes: Changes, pull: bool) -> State:
    """Run one experiment. A failure is returned as a state, so the other points continue."""
    progress = Progress("", get_run_logger(), name)
    try:
        seconds = run_experiment(base, name, changes, progress.write, pull)
    except StageError as error:
        return failed_task_state(error)
    finally:
        progress.close()
    return Completed(message=f"{seconds:.1f} s")


@flow(name="sweep", persist_result=False)
def sweep(
    file: str,
    at_once: Annotated[int, Field(ge=1)] = 1,
    runner: RunnerName = "threads",
    share: str = "",
) -> State:
    """Run every point of a sweep file as a DVC experiment in a separate workspace.

    Finished points are skipped. The final state has one `SweepRow` per point. It is a failure if a
    point failed.

    Args:
        file: Sweep file, such as conf/sweeps/methods.yaml. In the form, a file of the checkout.
        at_once: Number of concurrent experiments. They share the cores.
        runner: Threads of this process, or a local Dask or Ray cluster (prefect-dask or prefect-ray
            must be installed).
        share: Git remote, such as origin. Results computed elsewhere are pulled from the DVC
            remote, and the experiments are pushed to both remotes at the end.
    """
    stale_runs.register()
    log = get_run_logger()
    try:
        root = workspace.find_root(Path.cwd())
        if form.is_from_form():
            form.check_sweep_file(root, file)
        raw = read_yaml(root / "params.yaml")
        points = read_points(Path(file), raw, check=(root / "tasks").is_dir())
        if share:
            check_sharing(root, share)
        base = read_base(root)
        task_runner = make_task_runner(runner, at_once)
    except StageError as error:
        return failed_state(str(error))
    points = [Point(point.name, divide_cores(point.changes, at_once)) for point in points]
    rows = [SweepRow(point.name) for point in points]
    for row, point in zip(rows, points, strict=True):
        if is_done(base, point.name, apply_changes(raw, point.changes)):
            row.state = ALREADY_DONE
    run_points(base, points, rows, SweepTable(Path(file).stem, rows), task_runner, bool(share), log)
    failed = [row for row in rows if row.state == FAILED]
    if share:
        try:
            push_experiments(root, share, [row.experiment for row in rows if row not in failed])
        except StageError as error:
            return failed_state(
                f"the finished experiments are saved locally but were not shared: {error}", rows
            )
    if failed:
        reasons = "; ".join(f"{row.experiment}: {row.reason}" for row in failed)
        return failed_state(f"{len(failed)} of {len(rows)} experiments failed: {reasons}", rows)
    return Completed(message=f"{len(rows)} experiments", data=rows)


def run_points(
    base: Base,
    points: Sequence[Point],
    rows: Sequence[SweepRow],
    table: SweepTable,
    task_runner: TaskRunner[Any],
    pull: bool,
    log: Log,
) -> None:
    """Run the waiting points, and update their rows when they end."""
    waiting = [pair for pair in zip(rows, points, strict=True) if pair[0].state == WAITING]
    log.info("%d points, %d of them already done", len(rows), len(rows) - len(waiting))
    with task_runner as running:
        futures: dict[Any, SweepRow] = {}
        for row, point in waiting:
            parameters = {"base": base, "name": point.name, "changes": point.changes, "pull": pull}
            futures[running.submit(run_point, parameters, [])] = row
        for future in as_completed(list(futures)):
            future.wait()
            row, state = futures[future], future.state
            if state.is_completed():
                row.state, row.time = DONE, state.message or ""
            else:
                row.state, row.reason = FAILED, state.message or state.name or ""
            table.update()
            log.info(
                "%d of %d: %s %s%s",
                sum(row.state != WAITING for row in rows),
                len(rows),
                row.experiment,
                row.state,
                f" ({row.reason})" if row.reason else "",
            )


def divide_cores(changes: Changes, at_once: int) -> Changes:
    """Limit each experiment to its share of the cores. Results do not depend on it."""
    if at_once == 1 or "processes" in changes:
        return changes
    return changes | {"processes": max(1, count_cores() // at_once)}


def make_task_runner(name: RunnerName, at_once: int) -> TaskRunner[Any]:
    """Return the Prefect task runner of this name.

    Raises:
        StageError: The package of the runner is not installed.
    """
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=at_once)
    try:
        if name == "dask":
            from prefect_dask import DaskTaskRunner

            cluster = {"n_workers": at_once, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(cluster_kwargs=cluster)
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(init_kwargs={"num_cpus": at_once, "include_dashboard": False})
    except ImportError as error:
        raise StageError(
            f"the package of the runner {name} is not installed ({error}); run pip install"
            f" prefect-{name}"
        ) from error


class SweepTable:
    """The table of a sweep in Prefect's UI, which is updated after every experiment."""

    def __init__(self, name: str, rows: Sequence[SweepRow]):
        self.rows = rows
        self.artifact: Any = create_table_artifact(
            self._cells(), key=artifact_key(name, "sweep"), description=f"Sweep {name}"
        )

    def update(self) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self.artifact, ArtifactUpdate(data=json.dumps(self._cells())))

    def _cells(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]
