"""The command line of a sweep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.server import session

if TYPE_CHECKING:
    from flows.sweep import Row

ABOUT = """Runs every point of a sweep file as a DVC experiment in a workspace of its own (a git worktree that shares the cache).

What is done already is not run again, and what was interrupted goes on. `dvc exp show` and python -m tasks.compare see the results."""


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return session.command(lambda root: run(root, options))


def parser() -> argparse.ArgumentParser:
    result = session.parser("sweep", ABOUT)
    result.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="what to run, as conf/sweeps/methods.yaml (docs/sweeps.md says what it may hold)",
    )
    result.add_argument(
        "--at-once",
        type=positive,
        default=1,
        metavar="N",
        help="experiments at the same time (default: 1)",
    )
    result.add_argument(
        "--runner",
        choices=("threads", "dask", "ray"),
        default="threads",
        help="what runs them (default: threads)",
    )
    result.add_argument(
        "--share",
        default="",
        metavar="GIT_REMOTE",
        help="take what others have computed from DVC's remote, push what is done to both, as origin",
    )
    result.add_argument("--dry-run", action="store_true", help="list the points and run nothing")
    return result


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be at least 1")
    return number


def run(root: Path, options: argparse.Namespace) -> int:
    from flows.experiments.points import read
    from tasks.params import read_yaml

    points = read(
        options.file, read_yaml(root / "params.yaml"), check=(root / "tasks").is_dir()
    )  # mistakes in any point are told before anything runs
    if options.dry_run:
        for point in points:
            print(point.name, *(f"{key}={value}" for key, value in point.changes.items()))
        return 0
    with session.prefect(root):
        from flows import states
        from flows.sweep import sweep

        state = sweep(
            str(options.file), options.at_once, options.runner, options.share, return_state=True
        )
    print(table(states.results(state)))
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


def table(rows: list[Row]) -> str:
    cells = [
        ("experiment", "state", "time", ""),
        *((r.experiment, r.state, r.took, r.reason) for r in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(
        "  ".join(
            f"{text:<{width}}" for text, width in zip(row, [*widths, 0], strict=True)
        ).rstrip()
        for row in cells
    )
