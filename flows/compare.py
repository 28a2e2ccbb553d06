"""Experiments side by side as a flow: `from flows.compare import compare`, or `python -m flows.compare` (as python -m tasks.compare)."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Prefect reads its settings when it is imported, so the command sets them first and then imports this module by its name.
    from flows.compare_command import main

    sys.exit(main())

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import workspace
from flows.server import pages, stale_runs
from flows.states import failed
from flows.ui import results
from tasks import compare as comparison
from tasks.reports.comparison import sentences
from tasks.runtime.stage import StageError


@flow(name="compare", persist_result=False)
def compare(
    names: list[str] | None = None,
    since: str | None = None,
    baseline: str | None = None,
    out: str = str(comparison.OUT),
) -> State:
    """Writes the comparison of experiments, commits and the workspace, and leaves its summary as an artifact.

    Args:
        names: what to compare; empty is the workspace and every experiment
        since: a commit; also what changed the result after it, and the experiments from there on
        baseline: what all others are measured against; empty is the first one
        out: the folder to write, new or of an earlier comparison
    """
    stale_runs.arrive()
    log = get_run_logger()
    try:
        root = workspace.find_root(Path.cwd())
        experiments, left = comparison.gather(root, names or [], since=since)
        folder = root / out
        found = comparison.run(experiments, left, folder, baseline)
    except StageError as error:
        return failed(str(error))
    said = [f"{protocol.description}: {sentences.headline(protocol)}" for protocol in found]
    for line in [*said, *(f"left out: {line}" for line in left)]:
        log.info(line)
    summary = results.inlined(folder / "comparison.md")
    page = pages.address(root, folder / comparison.PAGE)
    create_markdown_artifact(
        f"[The whole page]({page})\n\n{summary}", key="comparison", description=said[0]
    )
    return Completed(message=said[0])
