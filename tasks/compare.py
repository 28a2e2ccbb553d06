"""Compare experiments: one self-contained page, a Markdown summary and a CSV table.

    python -m tasks.compare                        the workspace and every experiment
    python -m tasks.compare NAME|REV...            these; the first one is the baseline
    python -m tasks.compare --since REV            commits after REV with changed results, and
                                                   the experiments started from them
    python -m tasks.compare --all --baseline NAME  every experiment, compared with this one

`workspace` denotes the files of the checkout. Nothing is checked out: files are read from git and
from DVC's cache. Only experiments scored on the same test episodes in the same batch-norm mode are
compared with each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.experiments import (
    WORKSPACE,
    Experiment,
    MissingFilesError,
    NoResultError,
    Revision,
    RevisionHistory,
)
from tasks.reports.comparison import (
    calibration,
    closeup,
    cost,
    curves,
    pairwise,
    ranking,
    reliability,
    scaling,
    sentences,
    transfer,
)
from tasks.reports.comparison.protocols import Protocol, group_protocols
from tasks.reports.kit import charts, page, wording
from tasks.runtime import stage
from tasks.runtime.files import ROOT, atomic_folder, write_text
from tasks.runtime.stage import StageError

OUT = Path("reports/comparison")
PAGE = "comparison.html"

MAX_LISTED = 10
"""Maximum number of experiments with missing files listed in an error."""


def gather(
    root: Path, names: Sequence[str] = (), everything: bool = False, since: str | None = None
) -> tuple[list[Experiment], list[str]]:
    """Read the experiments to compare.

    By default, these are the workspace, if it has a result, and all experiments.

    Args:
        root: The checkout.
        names: Experiments, commits, branches or tags, or `workspace`.
        everything: Whether to add all experiments.
        since: A revision. Adds the commits after it with changed results, and the experiments
            started from them.

    Returns:
        The experiments, and a sentence about each one that is left out.

    Raises:
        StageError: A name is unknown or has no result, files are missing in DVC's cache, or there
            is nothing to compare.
    """
    with RevisionHistory.open(root) as history:
        revisions = history.find_named(names)
        if since is not None:
            revisions += history.list_since(since)
        if everything or not revisions:
            if not everything and since is None:
                revisions.append(Revision(WORKSPACE, ""))
            revisions += history.list_experiments()
        revisions = list(dict.fromkeys(revisions))
        experiments: list[Experiment] = []
        missing: list[MissingFilesError] = []
        left_out: list[str] = []
        workspace: list[str] = []
        for revision, result in zip(revisions, history.read(revisions), strict=True):
            if isinstance(result, MissingFilesError):
                missing.append(result)
            elif isinstance(result, NoResultError):
                if revision.name in names:
                    raise result
                (workspace if revision.name == WORKSPACE else left_out).append(str(result))
            elif diverged := int((~np.isfinite(result.scores)).sum()):
                episodes = wording.format_count(diverged, "episode")
                left_out.append(f"{result.name}: the score of {episodes} is not finite")
            else:
                experiments.append(result)
    if missing:
        raise StageError(_describe_missing(missing, history.has_remote))
    if not experiments:
        reasons = "; ".join((left_out + workspace)[:3])
        why = f" ({reasons})" if reasons else ""
        raise StageError(f"there is nothing to compare{why}: run dvc repro, or a sweep, first")
    return experiments, left_out


def _describe_missing(missing: Sequence[MissingFilesError], has_remote: bool) -> str:
    files = [f"{error.revision} lacks {wording.join_words(error.names)}" for error in missing]
    if len(files) > MAX_LISTED:
        files = [*files[:MAX_LISTED], f"and {len(files) - MAX_LISTED} more"]
    remedy = "Run dvc repro there, since there is no DVC remote to pull them from"
    if has_remote:
        remedy = "Run dvc pull (for experiments: dvc exp pull REMOTE NAME)"
    return f"files are missing in DVC's cache: {'; '.join(files)}. {remedy}, or leave these out"


def run(
    experiments: Sequence[Experiment],
    left_out: Sequence[str],
    out: Path,
    baseline: str | None = None,
) -> list[Protocol]:
    """Write the comparison: `comparison.html`, `comparison.md` with its charts, `comparison.csv`.

    Args:
        experiments: The experiments to compare.
        left_out: A sentence about each experiment that is left out.
        out: Folder to write; an existing comparison is replaced.
        baseline: Name of the experiment that all others are compared with; None for the first.

    Returns:
        The comparable experiments by protocol.

    Raises:
        StageError: `out` exists and is not a comparison.
    """
    if out.exists() and not (out / PAGE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise StageError(
            f"{out} exists and is not a comparison; choose another folder, because its content "
            "would be overwritten"
        )
    protocols = group_protocols(experiments, baseline)
    contexts = [
        _build_protocol_context(protocol, f"-{number}" if number > 1 else "")
        for number, protocol in enumerate(protocols, start=1)
    ]
    across = scaling.build_scaling_sections(protocols)
    sections = [section for context in contexts for section in context["sections"]] + across
    figures = [figure for section in sections for figure in section.figures]
    svgs = {figure.name: charts.render_svg(figure.spec) for figure in figures}
    experiment_count = wording.format_count(
        sum(len(p.experiments) for p in protocols), "experiment"
    )
    configurations = sum(len(p.configurations) for p in protocols)
    context = {
        "title": f"{experiment_count} in {wording.format_count(configurations, 'configuration')}",
        "protocols": contexts,
        "across": across,
        "left_out": list(left_out),
        "warning": sentences.warn_about_protocols(len(protocols)),
    }
    html = page.render_page("compare.html.j2", context, figures, svgs, ["compare.js"])
    with atomic_folder(out) as draft:
        write_text(draft / PAGE, html)
        write_text(draft / "comparison.md", page.render("compare.md.j2", context))
        for name, svg in svgs.items():
            write_text(draft / f"{name}.svg", svg)
        tabulate(protocols).to_csv(draft / "comparison.csv", index=False)
    return protocols


def _build_protocol_context(protocol: Protocol, suffix: str) -> dict[str, Any]:
    """Build the template variables of a protocol."""
    several = len(protocol.configurations) > 1
    sections = [ranking.build_ranking_section(protocol, suffix)]
    if several:
        sections.append(cost.build_cost_section(protocol, suffix))
    optional = [
        curves.build_learning_section(protocol, suffix),
        curves.build_adaptation_section(protocol, suffix),
        calibration.build_calibration_section(protocol, suffix),
        reliability.build_reliability_section(protocol, suffix),
    ]
    if several and protocol.is_accuracy:
        optional += [
            closeup.build_group_section(protocol, suffix),
            transfer.build_transfer_section(protocol, suffix),
        ]
    return {
        "suffix": suffix,
        "description": protocol.description,
        "sections": sections + [section for section in optional if section is not None],
        "table": ranking.build_configuration_table(protocol),
        "text_table": ranking.build_text_table(protocol),
        "matrix": pairwise.build_matrix(protocol),
        "disagreements": closeup.find_disagreements(protocol),
        "baseline": protocol.baseline.name,
    }


def tabulate(protocols: Sequence[Protocol]) -> pd.DataFrame:
    """Return one row per configuration, with fractions, seconds and bytes."""
    rows = []
    for protocol in protocols:
        for c in protocol.configurations:
            row = {
                "protocol": protocol.description,
                "configuration": c.name,
                "experiments": " ".join(e.name for e in c.experiments),
                "seeds": len(c.experiments),
                protocol.score: c.score.mean,
                "low": c.score.low,
                "high": c.score.high,
                "of_methods": c.score.of_methods,
                "baseline": protocol.baseline.name,
            }
            if (difference := c.to_baseline) is not None:
                row |= {
                    "to_baseline": difference.mean,
                    "to_baseline_low": difference.low,
                    "to_baseline_high": difference.high,
                    "p_corrected": c.p,
                    "paired": difference.paired,
                }
            row |= {"train_seconds": c.seconds, "peak_memory_bytes": c.memory}
            rows.append(row | c.params)
    return pd.DataFrame(rows)


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select the experiments to compare."""
    parser.add_argument(
        "revisions",
        nargs="*",
        metavar="NAME|REV",
        help="experiments, commits, branches or tags, or `workspace` (default: all of them)",
    )
    parser.add_argument("--all", action="store_true", help="add all experiments")
    parser.add_argument(
        "--since",
        metavar="REV",
        help="add the commits after REV with changed results, and the experiments from them",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="experiment that all others are compared with (default: the first one)",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_selection_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="PATH", help=f"folder to write (default: {OUT})"
    )
    args = parser.parse_args()

    def body() -> None:
        experiments, left_out = gather(ROOT, args.revisions, args.all, args.since)
        for protocol in run(experiments, left_out, args.out, args.baseline):
            print(f"{protocol.description}\n  {sentences.describe_best(protocol)}")
        for line in left_out:
            print(f"left out: {line}")
        print(args.out / PAGE)

    stage.run(body)


if __name__ == "__main__":
    main()
