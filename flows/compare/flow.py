"""The flow `compare`: compare experiments and publish the summary."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import form, workspace
from flows.server import stale_runs
from flows.server.pages import page_url
from flows.states import failed_state
from flows.ui.results import inline_images
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
    """Compare experiments and commits, and publish the summary as an artifact.

    Args:
        names: Experiments and commits to compare. By default, the workspace and all experiments.
        since: Also compare later commits that changed the result, and the experiments since then.
        baseline: Experiment that all others are compared with. By default, the first one.
        out: Output folder: a new one, or that of an earlier comparison. In the form, a folder in
            reports.
    """
    stale_runs.register()
    log = get_run_logger()
    try:
        root = workspace.find_root(Path.cwd())
        if form.is_from_form():
            form.check_output_folder(root, out)
        experiments, left_out = comparison.gather(root, names or [], since=since)
        folder = root / out
        protocols = comparison.run(experiments, left_out, folder, baseline)
    except StageError as error:
        return failed_state(str(error))
    headlines = [
        f"{protocol.description}: {sentences.describe_best(protocol)}" for protocol in protocols
    ]
    for line in [*headlines, *(f"left out: {reason}" for reason in left_out)]:
        log.info(line)
    url = page_url(root, folder / comparison.PAGE)
    summary = inline_images(folder / "comparison.md")
    create_markdown_artifact(
        f"[Full page]({url})\n\n{summary}", key="comparison", description=headlines[0]
    )
    return Completed(message=headlines[0])
