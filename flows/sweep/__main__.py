"""Command line of the flow `sweep`: run the points and print their states."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.experiments.points import read_points
from flows.server import session
from tasks.params import read_yaml

if TYPE_CHECKING:
    from flows.sweep.flow import SweepRow

DESCRIPTION = """\
Runs every point of a sweep file as a DVC experiment in a separate workspace (a git worktree that
shares the cache).

Finished points are skipped, and interrupted ones resume from the last checkpoint. To see the
results, use `dvc exp show` or python -m tasks.compare."""


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return session.run_command(lambda root: run(root, options))


def make_parser() -> argparse.ArgumentParser:
    parser = session.make_parser("flows.sweep", DESCRIPTION)
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="sweep file, such as conf/sweeps/methods.yaml (docs/guide/sweeps.md has the format)",
    )
    parser.add_argument(
        "--at-once",
        type=parse_count,
        default=1,
        metavar="N",
        help="number of concurrent experiments (default: 1)",
    )
    parser.add_argument(
        "--runner",
        choices=("threads", "dask", "ray"),
        default="threads",
        help="task runner (default: threads)",
    )
    parser.add_argument(
        "--share",
        default="",
        metavar="GIT_REMOTE",
        help="pull results computed elsewhere from the DVC remote, and push finished experiments to"
        " this git remote, such as origin, and to the DVC remote",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the points without running them"
    )
    return parser


def parse_count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small; it must be at least 1")
    return number


def run(root: Path, options: argparse.Namespace) -> int:
    # Reports errors in all points before anything runs.
    points = read_points(
        options.file, read_yaml(root / "params.yaml"), check=(root / "tasks").is_dir()
    )
    if options.dry_run:
        for point in points:
            print(point.name, *(f"{key}={value}" for key, value in point.changes.items()))
        return 0
    with session.prefect_session(root):
        from flows.states import read_records
        from flows.sweep.flow import sweep

        state = sweep(
            str(options.file), options.at_once, options.runner, options.share, return_state=True
        )
    print(format_table(read_records(state)))
    if state.is_completed():
        return 0
    session.print_errors(state.message or "the sweep failed")
    return 1


def format_table(rows: list[SweepRow]) -> str:
    cells = [("experiment", "state", "time", "")]
    cells += [(row.experiment, row.state, row.time, row.reason) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(3)] + [0]
    lines = [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
