"""Many experiments side by side: `python -m flows.sweep conf/sweeps/NAME.yaml`, or `from flows.sweep import sweep`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Prefect reads its settings when it is imported, so the command sets them first and then imports this module by its name.
    from flows.sweep_command import main

    sys.exit(main())

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from flows import workspace
from flows.experiments import experiment
from flows.experiments.points import Point, changed, read
from flows.server import stale_runs
from flows.states import failed
from flows.ui.progress import Progress, key
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

Runner = Literal["threads", "dask", "ray"]


@dataclass
class Row:
    """One point in the table of a sweep."""

    experiment: str
    state: str = "waiting"
    took: str = ""
    reason: str = ""


@task(name="experiment", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_point(
    root: str, commit: str, tree: str, name: str, changes: dict[str, Any], pull: bool
) -> State:
    """One experiment; a failure is a state with a sentence, so that the others go on."""
    log = get_run_logger()
    progress = Progress("", log, name)
    try:
        seconds = experiment.run(
            experiment.Base(Path(root), commit, tree), name, changes, progress.line, pull
        )
    except StageError as error:
        return Failed(message=str(error))
    finally:
        progress.close()
    return Completed(message=f"{seconds:.1f} s")


@flow(name="sweep", persist_result=False)
def sweep(
    file: str, at_once: Annotated[int, Field(ge=1)] = 1, runner: Runner = "threads", share: str = ""
) -> State:
    """Every point of a sweep file as a DVC experiment in a workspace of its own; what is done already is not run again.

    The final state holds a `Row` for each point; it fails if one of them did.

    Args:
        file: as conf/sweeps/methods.yaml
        at_once: experiments at the same time, which share the cores
        runner: threads of this process, or a local cluster of Dask or Ray (needs prefect-dask or prefect-ray)
        share: a git remote, as origin: what others have computed comes from DVC's remote, and the experiments are pushed to both at the end
    """
    stale_runs.arrive()
    log = get_run_logger()
    rows: list[Row] = []
    try:
        root = workspace.find_root(Path.cwd())
        raw = read_yaml(root / "params.yaml")
        points = read(Path(file), raw, check=(root / "tasks").is_dir())
        if share:
            experiment.sharing(root, share)
        base = experiment.base(root)
        with_runner = task_runner(runner, at_once)
    except StageError as error:
        return failed(str(error), rows)
    points = [Point(p.name, shared(p.changes, at_once)) for p in points]
    rows = [
        Row(
            p.name,
            "done before" if experiment.done(base, p.name, changed(raw, p.changes)) else "waiting",
        )
        for p in points
    ]
    table = Table(Path(file).stem, rows)
    log.info(
        "%d points, %d of them done before, %d at once",
        len(points),
        sum(r.state == "done before" for r in rows),
        at_once,
    )
    todo = [(row, point) for row, point in zip(rows, points, strict=True) if row.state == "waiting"]
    with with_runner as running:
        futures = {
            running.submit(run_point, _arguments(base, point) | {"pull": bool(share)}, []): row
            for row, point in todo
        }  # type: ignore[arg-type]
        for future in as_completed(list(futures)):  # type: ignore[arg-type]
            future.wait()
            row, state = futures[future], future.state  # type: ignore[index]
            said = state.message or state.name or ""
            row.state, row.took, row.reason = (
                ("done", said, "") if state.is_completed() else ("failed", "", said)
            )
            table.update()
            finished = sum(r.state in ("done", "failed", "done before") for r in rows)
            log.info(
                "%d of %d: %s %s%s",
                finished,
                len(rows),
                row.experiment,
                row.state,
                f" ({row.reason})" if row.reason else "",
            )
    if share:
        try:
            experiment.share(root, share, [r.experiment for r in rows if r.state != "failed"])
        except StageError as error:
            return failed(f"all that is done is kept here, but not shared: {error}", rows)
    without = [r for r in rows if r.state == "failed"]
    if without:
        said = "; ".join(f"{r.experiment}: {r.reason}" for r in without)
        return failed(f"{len(without)} of {len(rows)} experiments failed: {said}", rows)
    return Completed(message=f"{len(rows)} experiments", data=rows)


def _arguments(base: experiment.Base, point: Point) -> dict[str, Any]:
    return {
        "root": str(base.root),
        "commit": base.commit,
        "tree": base.tree,
        "name": point.name,
        "changes": point.changes,
    }


def shared(changes: dict[str, Any], at_once: int) -> dict[str, Any]:
    """With several experiments at once each takes its share of the cores (which changes no result)."""
    if at_once == 1 or "processes" in changes:
        return changes
    return changes | {"processes": max(1, (os.cpu_count() or 1) // at_once)}


def task_runner(name: Runner, at_once: int) -> TaskRunner[Any]:
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=at_once)
    try:
        if name == "dask":
            from prefect_dask import DaskTaskRunner

            return DaskTaskRunner(
                cluster_kwargs={
                    "n_workers": at_once,
                    "threads_per_worker": 1,
                    "dashboard_address": None,
                }
            )
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(init_kwargs={"num_cpus": at_once, "include_dashboard": False})
    except ImportError as error:
        raise StageError(
            f"runner {name} needs a package that is not installed: pip install prefect-{name} ({error})"
        ) from error


class Table:
    """The sweep's table in the UI, written anew after every experiment."""

    def __init__(self, name: str, rows: Sequence[Row]):
        self.rows = rows
        self.artifact: Any = create_table_artifact(
            self._cells(), key=key(name, "sweep"), description=f"Sweep {name}"
        )

    def update(self) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self.artifact, ArtifactUpdate(data=json.dumps(self._cells())))

    def _cells(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]
