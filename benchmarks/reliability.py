"""Tables of the calibration, prediction sets and unknown classes of the experiments of a sweep.

    python -m flows.sweep conf/sweeps/reliability.yaml
    python -m benchmarks.reliability [PREFIX]    # experiments whose names begin so: reliability-

Everything is measured on test episodes. What was fitted (temperature, sets, score, threshold) was
fitted on validation episodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.experiments.experiment import Experiment
from tasks.experiments.history import RevisionHistory

TRAINED_MODE = "inductive"
"""The batch-norm mode of adapted models, in which their queries do not depend on each other."""


def format_table(rows: Sequence[Sequence[str]], head: Sequence[str], texts: int) -> str:
    """Format rows as Markdown; all columns but the first ones contain numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def interval(row: Any, name: str, scale: float = 100) -> str:
    """Format a measure with its 95 % interval, in percent unless `scale` is 1."""
    digits = 1 if scale == 100 else 2
    return f"{scale * row[name]:.{digits}f} ± {scale * row[f'{name}_ci95']:.{digits}f}"


def describe_sizes(experiment: Experiment) -> list[list[str]]:
    """Return a row for each size of tasks, trained and other: calibration and sets."""
    sizes = pd.read_csv(experiment.file("reports/scores/sizes.csv"))
    return [
        [
            experiment.params["dataset"]["name"],
            f"`{experiment.params['algorithm']['name']}`",
            f"{row.shots:.0f}",
            interval(row, "accuracy"),
            interval(row, "raw_ece"),
            interval(row, "ece"),
            interval(row, "raw_likelihood", 1),
            interval(row, "likelihood", 1),
            interval(row, "set_coverage"),
            interval(row, "set_size", 1),
        ]
        for _, row in sizes.iterrows()
    ]


def describe_unknown(experiment: Experiment) -> list[list[str]]:
    """Return a row for each population of unknown queries."""
    detection = pd.read_csv(experiment.file("reports/scores/detection.csv"))
    chosen = str(experiment.metrics["unknown.score"])
    rows = []
    for population, group in detection.groupby("population", sort=False):
        scores = group.set_index("score")
        best, plain = scores.loc[chosen], scores.loc["max_softmax"]
        gain = f"unknown.{population}.auroc_gain"
        rows.append(
            [
                experiment.params["dataset"]["name"],
                f"`{experiment.params['algorithm']['name']}`",
                str(population).replace("_", " "),
                f"`{chosen}`",
                interval(best, "auroc"),
                interval(plain, "auroc"),
                f"{100 * experiment.metrics[gain]:+.1f} ± "
                f"{100 * experiment.metrics[f'{gain}_ci95']:.1f}",
                interval(best, "fpr"),
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", nargs="?", default="reliability-")
    prefix = parser.parse_args().prefix
    with RevisionHistory.open(Path.cwd()) as history:
        found = [r for r in history.list_experiments() if r.name.startswith(prefix)]
        experiments = []
        for read in history.read(found):
            if not isinstance(read, Experiment):
                raise SystemExit(f"{read}")
            experiments.append(read)
    if not experiments:
        parser.error(f"no experiment begins with {prefix}: run the sweep first")
    order = ["glyphs", "omniglot", "clinc150", "image_folder"]
    experiments.sort(
        key=lambda e: (order.index(e.params["dataset"]["name"]), e.params["algorithm"]["name"])
    )
    head = ["dataset", "algorithm", "shots", "accuracy, %", "ECE before, %", "after"]
    head += ["NLL before", "after", "90 % sets: coverage, %", "classes"]
    print(format_table([row for e in experiments for row in describe_sizes(e)], head, 2))
    head = ["dataset", "algorithm", "unknown queries", "score", "AUROC, %"]
    head += ["of `max_softmax`", "gain", "FPR at 95 % TPR, %"]
    print()
    print(format_table([row for e in experiments for row in describe_unknown(e)], head, 4))


if __name__ == "__main__":
    main()
