"""How far predictions can be trusted: unknown classes and prediction sets, by experiment."""

from __future__ import annotations

import numpy as np
import pandas as pd

from episodic.data.unknown_queries import OTHER_CLASS
from episodic.training.unknown import measure_detection
from tasks.experiments import Experiment
from tasks.reports.comparison import sentences
from tasks.reports.comparison.measures import (
    LISTED,
    Interval,
    Measures,
    have_same_queries,
    name_experiment,
    read_measures,
    read_queries,
)
from tasks.reports.comparison.protocols import Protocol
from tasks.reports.comparison.style import format_difference
from tasks.reports.kit import wording
from tasks.reports.kit.section import ReportSection, Table

KEYS = {
    "auroc": "unknown.other_classes.auroc",
    "fpr": "unknown.other_classes.fpr",
    "coverage": "sets.coverage_90.coverage",
    "size": "sets.coverage_90.size",
}
"""Keys of the measures in metrics.json."""


def build_reliability_section(protocol: Protocol, suffix: str) -> ReportSection | None:
    """Build the section with the measures of each experiment; None if nothing was measured."""
    measured = read_measures(protocol, KEYS)
    if not measured:
        return None
    measured.sort(key=lambda entry: -entry.values.get("auroc", (0.0, 0.0))[0])
    listed = measured[:LISTED]
    differences = _measure_differences(listed, protocol.baseline.first)
    rows = [
        [
            entry.name,
            entry.format("auroc", "accuracy"),
            _format_to_baseline(protocol, entry, differences),
            entry.format("fpr", "accuracy"),
            entry.format("coverage", "accuracy"),
            entry.format("size"),
        ]
        for entry in listed
    ]
    head = ["experiment", "AUROC", "vs baseline", "FPR at 95 % TPR", "coverage", "mean size"]
    caption = "Unknown classes and 90 % prediction sets, with 95 % intervals"
    numeric = frozenset(range(1, len(head)))
    notes = [sentences.RELIABILITY_NOTE]
    if left_out := len(measured) - len(listed):
        notes.append(f"{wording.format_count(left_out, 'more experiment')} are not listed.")
    return ReportSection(
        f"reliability{suffix}",
        "Unknown classes and prediction sets",
        _describe(protocol, listed, differences),
        notes=notes,
        results=[Table(caption, head, rows, numeric)],
    )


def _describe(protocol: Protocol, listed: list[Measures], differences: dict[str, Interval]) -> str:
    texts = []
    best = listed[0]
    if "auroc" in best.values:
        auroc, difference = best.values["auroc"][0], differences.get(best.experiment.name)
        baseline = name_experiment(protocol.baseline, protocol.baseline.first)
        texts.append(sentences.describe_detection(best.name, auroc, difference, baseline))
    coverages = [entry.values["coverage"][0] for entry in listed if "coverage" in entry.values]
    if coverages:
        texts.append(sentences.describe_coverages(min(coverages), max(coverages)))
    return " ".join(texts)


# --- paired differences ------------------------------------------------------------------------


def _measure_differences(listed: list[Measures], baseline: Experiment) -> dict[str, Interval]:
    """Measure the differences in AUROC from the baseline, paired by episode.

    Returns:
        Name of the experiment -> difference and half-width of its 95 % interval, for experiments
        with the same queries as the baseline.
    """
    seed = int(baseline.meta["seed"])
    queries = _read_queries(baseline)
    if queries is None:
        return {}
    reference = _measure_area(baseline, queries, seed)
    differences = {}
    for entry in listed:
        experiment = entry.experiment
        if experiment is baseline or (others := _read_queries(experiment)) is None:
            continue
        if not have_same_queries(others, queries):
            continue
        area = _measure_area(experiment, others, seed)
        samples = area[1] - reference[1]
        differences[experiment.name] = (
            area[0] - reference[0],
            float(1.96 * samples.std(ddof=1)),
        )
    return differences


def _read_queries(experiment: Experiment) -> pd.DataFrame | None:
    """Read the queries of known and of other classes; None if there is no table of them."""
    if KEYS["auroc"] not in experiment.metrics:
        return None
    queries = read_queries(experiment, "open.parquet", [str(experiment.metrics["unknown.score"])])
    if queries is None:
        return None
    return queries[queries["label"] >= OTHER_CLASS].reset_index(drop=True)


def _measure_area(
    experiment: Experiment, queries: pd.DataFrame, seed: int
) -> tuple[float, np.ndarray]:
    """Measure the area under the ROC curve, and in each resample of the episodes."""
    detection = measure_detection(
        queries[str(experiment.metrics["unknown.score"])].to_numpy(),
        (queries["label"] >= 0).to_numpy(),
        queries["episode"].to_numpy(),
        seed,
    )
    return detection.auroc, detection.auroc_samples


# --- cells -------------------------------------------------------------------------------------


def _format_to_baseline(
    protocol: Protocol, entry: Measures, differences: dict[str, Interval]
) -> str:
    if entry.experiment is protocol.baseline.first:
        return "baseline"
    if entry.experiment.name not in differences:
        return ""
    difference, ci95 = differences[entry.experiment.name]
    return f"{format_difference(protocol, difference)} ± {100 * ci95:.1f}"
