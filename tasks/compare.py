"""Experiments side by side: one self-contained page, a Markdown summary and a CSV table.

    python -m tasks.compare                             the workspace and every experiment
    python -m tasks.compare NAME|REV...                 these; `workspace` is what lies here; the first is the baseline
    python -m tasks.compare --since REV                 commits after REV that changed the result, and the experiments since
    python -m tasks.compare --all --baseline NAME       every experiment, against this one

Nothing is checked out: files come from git and from DVC's cache. What was not scored on the same episodes in the same mode is never paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.experiments import WORKSPACE, Experiment, History, Missing, NoResultError, Revision
from tasks.reports.comparison import disagreements, groups, scaling, sections, transfer
from tasks.reports.comparison.groups import Protocol
from tasks.reports.kit import charts, page, wording
from tasks.reports.kit.section import Section
from tasks.runtime import stage
from tasks.runtime.files import ROOT, atomic_folder, write_text
from tasks.runtime.stage import StageError

OUT = Path("reports/comparison")
PAGE = "comparison.html"


def gather(
    root: Path, names: Sequence[str] = (), everything: bool = False, since: str | None = None
) -> tuple[list[Experiment], list[str]]:
    """The experiments asked for, and what had to be left out, in words.

    Without names, `everything` or `since`: the workspace, if it has a result, and every experiment.
    StageError: a name that is not known or has no result, files that the cache lacks, or nothing to compare.
    """
    with History.open(root) as history:
        revisions = history.named(names)
        if since is not None:
            revisions += history.since(since)
        if everything or not revisions:
            revisions += (
                [] if everything or since is not None else [Revision(WORKSPACE, "")]
            ) + history.everything()
        revisions = list(dict.fromkeys(revisions))
        asked, experiments, missing = set(names), [], []
        left: list[str] = []
        here: list[str] = []
        for revision, found in zip(revisions, history.read(revisions), strict=True):
            if isinstance(found, Missing):
                missing.append(found)
            elif isinstance(found, NoResultError):
                if revision.name in asked:
                    raise found
                (here if revision.name == WORKSPACE else left).append(str(found))
            elif not np.isfinite(found.scores).all():
                left.append(
                    f"{found.name}: {int((~np.isfinite(found.scores)).sum())} of its episodes have a score that is not finite"
                )
            else:
                experiments.append(found)
    if missing:
        pull = "Run dvc pull (for experiments: dvc exp pull REMOTE NAME)"
        repro = "Run dvc repro there, since there is no DVC remote to pull them from"
        lines = [f"{m.revision} lacks {wording.joined(m.names)}" for m in missing]
        raise StageError(
            "DVC's cache does not hold all files: "
            + "; ".join(lines[:10])
            + (f"; and {len(lines) - 10} more" if len(lines) > 10 else "")
            + f". {pull if history.remote else repro}, or name only others"
        )
    if not experiments:
        why = f" ({'; '.join((left + here)[:3])})" if left + here else ""
        raise StageError(f"there is nothing to compare{why}: run dvc repro, or a sweep, first")
    return experiments, left


def run(
    experiments: Sequence[Experiment], left: Sequence[str], out: Path, baseline: str | None = None
) -> list[Protocol]:
    """Writes the folder `out` anew: `comparison.html`, `comparison.md` with its pictures, and `comparison.csv`; returns what was compared.

    StageError: `out` holds something else than a comparison.
    """
    if out.exists() and not (out / PAGE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise StageError(
            f"{out} holds something else than a comparison, which would be lost: name a new folder"
        )
    found = groups.protocols(experiments, baseline)
    parts = [_part(protocol, "" if i == 0 else f"-{i + 1}") for i, protocol in enumerate(found)]
    across = scaling.sections(found)
    figures = [
        figure for part in parts for section in part["sections"] for figure in section.figures
    ]
    figures += [figure for section in across for figure in section.figures]
    drawn = {figure.name: charts.svg(figure.spec) for figure in figures}
    count = sum(len(p.experiments) for p in found)
    configurations = sum(len(p.configurations) for p in found)
    context = {
        "title": f"{wording.count(count, 'experiment')} in {wording.count(configurations, 'configuration')}",
        "sentence": parts[0]["sections"][0].sentence,
        "parts": parts,
        "across": across,
        "left": list(left),
        "warning": _warning(found),
    }
    with atomic_folder(out) as draft:
        write_text(
            draft / PAGE, page.html("compare.html.j2", context, figures, drawn, ["compare.js"])
        )
        write_text(draft / "comparison.md", page.render("compare.md.j2", context))
        for name, picture in drawn.items():
            write_text(draft / f"{name}.svg", picture)
        frame(found).to_csv(draft / "comparison.csv", index=False)
    return found


def _part(protocol: Protocol, place: str) -> dict[str, Any]:
    several = len(protocol.configurations) > 1
    made: list[Section | None] = [sections.ranking(protocol, place)]
    if several:
        made += [sections.cost(protocol, place)]
    made += [sections.learning(protocol, place), sections.adaptation(protocol, place)]
    if several and protocol.higher:
        made += [sections.groups(protocol, place), transfer.transfer(protocol, place)]
    return {
        "place": place,
        "said": protocol.said,
        "sections": [section for section in made if section is not None],
        "table": sections.table(protocol),
        "numbers": sections.numbers(protocol),
        "matrix": sections.matrix(protocol),
        "disagreements": disagreements.find(protocol),
        "baseline": protocol.baseline.name,
        "several": several,
    }


def _warning(found: Sequence[Protocol]) -> str:
    if len(found) == 1:
        return ""
    return (
        f"These experiments follow {wording.in_words(len(found))} protocols, which differ in data, episodes, queries or batch-norm mode: "
        "figures of different protocols are not compared, neither here nor in the table."
    )


def frame(found: Sequence[Protocol]) -> pd.DataFrame:
    """One line a configuration, for further use: fractions, seconds, bytes."""
    lines = []
    for protocol in found:
        for c in protocol.configurations:
            d = c.to_baseline
            line = {
                "protocol": protocol.said,
                "configuration": c.name,
                "experiments": " ".join(e.name for e in c.experiments),
                "seeds": len(c.experiments),
                protocol.score: c.score.mean,
                "low": c.score.low,
                "high": c.score.high,
                "of_methods": c.score.of_methods,
                "baseline": protocol.baseline.name,
            }
            if d is not None:
                line |= {
                    "to_baseline": d.mean,
                    "to_baseline_low": d.low,
                    "to_baseline_high": d.high,
                    "p_corrected": c.p,
                    "paired": d.paired,
                }
            lines.append(
                line | {"train_seconds": c.seconds, "peak_memory_bytes": c.memory} | c.params
            )
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "revisions",
        nargs="*",
        metavar="NAME|REV",
        help="experiments, commits, branches, tags, or `workspace`",
    )
    parser.add_argument("--all", action="store_true", help="every experiment")
    parser.add_argument(
        "--since",
        metavar="REV",
        help="commits after REV that changed the result, and experiments since",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="what all others are measured against (default: the first one)",
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="PATH", help=f"folder to write (default: {OUT})"
    )
    args = parser.parse_args()

    def body() -> None:
        experiments, left = gather(ROOT, args.revisions, args.all, args.since)
        found = run(experiments, left, args.out, args.baseline)
        for protocol in found:
            print(f"{protocol.said}\n  {sections.headline(protocol)}")
        for line in left:
            print(f"left out: {line}")
        print(args.out / PAGE)

    stage.run(body)


if __name__ == "__main__":
    main()
