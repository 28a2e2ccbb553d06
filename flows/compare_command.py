"""The command line of the comparison's flow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.server import session
from tasks import compare as comparison


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return session.command(lambda root: run(root, options))


def parser() -> argparse.ArgumentParser:
    about = "python -m tasks.compare as a Prefect flow, whose summary becomes an artifact."
    result = session.parser("compare", about)
    result.add_argument(
        "revisions",
        nargs="*",
        metavar="NAME|REV",
        help="experiments, commits, branches, tags, or `workspace` (none: everything)",
    )
    result.add_argument(
        "--all", action="store_true", help="every experiment, without the workspace"
    )
    result.add_argument(
        "--since",
        metavar="REV",
        help="commits after REV that changed the result, and experiments since",
    )
    result.add_argument(
        "--baseline",
        metavar="NAME",
        help="what all others are measured against (default: the first one)",
    )
    result.add_argument(
        "--out",
        type=absolute,
        default=comparison.OUT,
        metavar="PATH",
        help=f"folder to write (default: {comparison.OUT})",
    )
    return result


def absolute(text: str) -> Path:
    """From where the command was called: it goes on in the checkout's root."""
    return Path(text).absolute()


def run(root: Path, options: argparse.Namespace) -> int:
    with session.prefect(root):
        from flows.compare import compare
        from tasks.experiments import History

        names = list(options.revisions)
        if options.all:
            with History.open(root) as history:
                names += [revision.name for revision in history.list_experiments()]
        state = compare(names, options.since, options.baseline, str(options.out), return_state=True)
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print(state.message)
    print(root / options.out / comparison.PAGE)
    return 0
