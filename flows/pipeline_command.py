"""The command line of the pipeline's flow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.dvc_worker import driver
from flows.server import session
from tasks import params

if TYPE_CHECKING:
    from flows.pipeline import Result

ABOUT = """Brings the project's outputs up to date as a Prefect flow: the stages of dvc.yaml, configured by params.yaml.

DVC decides what is up to date, so this and `dvc repro` can take turns. A stage ends `Cached` where DVC skipped or restored it
and `Completed` where it ran."""


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return session.command(lambda root: run(root, options))


def parser() -> argparse.ArgumentParser:
    result = session.parser("pipeline", ABOUT)
    result.add_argument(
        "--stage",
        nargs="+",
        metavar="NAME",
        help="go only as far as these stages, with all that they need",
    )
    result.add_argument(
        "--force", action="store_true", help="run every stage, also where DVC knows the outcome"
    )
    result.add_argument(
        "--patience",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="wait so long for another DVC command (default: 300)",
    )
    return result


def run(root: Path, options: argparse.Namespace) -> int:
    if (root / "tasks").is_dir():
        params.load(root / "params.yaml")  # mistakes in any section are told before anything runs
    with session.prefect(root, meanwhile=lambda: driver.start(root)):
        from flows import states
        from flows.pipeline import pipeline

        state = pipeline(options.stage, options.force, options.patience, return_state=True)
    print(table(states.results(state)))
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


def table(results: list[Result]) -> str:
    rows = [("stage", "state", "seconds")]
    rows += [
        (result.stage, result.state, f"{result.seconds:.1f}" if result.state != "not run" else "-")
        for result in results
    ]
    stage, state = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{row[0]:<{stage}}  {row[1]:<{state}}  {row[2]:>7}" for row in rows)
