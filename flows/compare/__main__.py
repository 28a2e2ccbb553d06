"""Command line of the flow `compare`: compare experiments and print the page's path."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.server import session
from tasks import compare as comparison
from tasks.experiments import RevisionHistory

DESCRIPTION = """\
Compares experiments and commits like python -m tasks.compare, but as a Prefect flow that publishes
the summary as an artifact."""


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return session.run_command(lambda root: run(root, options))


def make_parser() -> argparse.ArgumentParser:
    parser = session.make_parser("flows.compare", DESCRIPTION)
    comparison.add_selection_arguments(parser)
    parser.add_argument(
        "--out",
        # Resolved here, because the command changes to the root of the checkout.
        type=lambda text: Path(text).absolute(),
        default=comparison.OUT,
        metavar="PATH",
        help=f"folder to write (default: {comparison.OUT})",
    )
    return parser


def run(root: Path, options: argparse.Namespace) -> int:
    with session.prefect_session(root):
        from flows.compare.flow import compare

        names = list(options.revisions)
        if options.all:
            with RevisionHistory.open(root) as history:
                names += [revision.name for revision in history.list_experiments()]
        state = compare(names, options.since, options.baseline, str(options.out), return_state=True)
    if not state.is_completed():
        session.print_errors(state.message or "the comparison failed")
        return 1
    print(state.message)
    print(root / options.out / comparison.PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
