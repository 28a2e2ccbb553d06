"""Command line of the flow `pipeline`: run the stages and print their states."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.dvc_worker import driver
from flows.server import session
from tasks import params

if TYPE_CHECKING:
    from flows.stages import StageRun

DESCRIPTION = """\
Brings the project's outputs up to date as a Prefect flow: the stages of dvc.yaml, configured by
params.yaml.

DVC decides what is up to date, so this command and `dvc repro` are interchangeable. A stage ends
`Completed` if it ran, and `Cached` if DVC skipped or restored it."""


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return session.run_command(lambda root: run(root, options))


def make_parser() -> argparse.ArgumentParser:
    parser = session.make_parser("flows.pipeline", DESCRIPTION)
    parser.add_argument(
        "--stage",
        nargs="+",
        metavar="NAME",
        help="run only these stages and their dependencies",
    )
    parser.add_argument("--force", action="store_true", help="also run stages that are up to date")
    parser.add_argument(
        "--lock-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for another DVC command in this workspace (default: 300)",
    )
    return parser


def run(root: Path, options: argparse.Namespace) -> int:
    if (root / "tasks").is_dir():
        params.load(root / "params.yaml")  # reports errors in all sections before anything runs
    with session.prefect_session(root, while_starting=lambda: driver.start_worker(root)):
        from flows.pipeline.flow import pipeline
        from flows.states import read_records

        state = pipeline(options.stage, options.force, options.lock_timeout, return_state=True)
    print(format_table(read_records(state)))
    if state.is_completed():
        return 0
    session.print_errors(state.message or "the run failed")
    return 1


def format_table(runs: list[StageRun]) -> str:
    rows = [("stage", "state", "seconds")]
    for run in runs:
        seconds = "-" if run.state == "not run" else f"{run.seconds:.1f}"
        rows.append((run.stage, run.state, seconds))
    stage, state = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{row[0]:<{stage}}  {row[1]:<{state}}  {row[2]:>7}" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
