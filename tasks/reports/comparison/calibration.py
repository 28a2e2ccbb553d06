"""How well the probabilities of each experiment agree with frequencies."""

from __future__ import annotations

import pandas as pd

from episodic.core.statistics import mean_ci95
from episodic.training.calibration import CalibrationError, measure_calibration_error
from tasks.experiments import Experiment
from tasks.reports.comparison import sentences
from tasks.reports.comparison.measures import (
    LISTED,
    Interval,
    Measures,
    have_same_queries,
    read_measures,
    read_queries,
)
from tasks.reports.comparison.protocols import Protocol
from tasks.reports.kit import wording
from tasks.reports.kit.section import ReportSection, Table

SCORES = ("likelihood", "brier")
"""Columns of answers.parquet whose means are compared."""

KEYS = {
    f"{prefix}{name}": f"calibration.{prefix}{name}"
    for prefix in ("raw_", "")
    for name in ("ece", *SCORES)
}
"""Keys of the measures in metrics.json. Without calibration, only those with `raw_` exist."""


def build_calibration_section(protocol: Protocol, suffix: str) -> ReportSection | None:
    """Build the section with the calibration of each experiment; None if none was measured."""
    measured = read_measures(protocol, KEYS)
    if not measured:
        return None
    likelihoods = {
        entry.name: entry.values.get("likelihood", entry.values["raw_likelihood"])[0]
        for entry in measured
    }
    measured.sort(key=lambda entry: likelihoods[entry.name])
    listed = measured[:LISTED]
    errors = [
        [entry.values[key][0] for entry in listed if key in entry.values]
        for key in ("raw_ece", "ece")
    ]
    for entry in listed:  # without calibration, the probabilities in use are the raw ones
        for key in ("ece", *SCORES):
            entry.values.setdefault(key, entry.values[f"raw_{key}"])
    baseline = protocol.baseline.first
    differences = _measure_differences(listed, baseline)
    rows = [
        [
            entry.name,
            entry.format("raw_ece", "accuracy"),
            *(
                text
                for key in ("ece", *SCORES)
                for text in (
                    entry.format(key, "accuracy" if key == "ece" else "mse"),
                    _format_to_baseline(entry, baseline, differences, key),
                )
            ),
        ]
        for entry in listed
    ]
    versus = "vs baseline"
    head = ["experiment", "ECE before", "ECE", versus, "NLL", versus, "Brier score", versus]
    notes = [sentences.CALIBRATION_NOTE]
    if left_out := len(measured) - len(listed):
        notes.append(f"{wording.format_count(left_out, 'more experiment')} are not listed.")
    caption = "Probabilities on the test episodes, with 95 % intervals; lower is better"
    table = Table(caption, head, rows, frozenset(range(1, len(head))))
    best = listed[0].name if len(listed) > 1 else None
    sentence = sentences.describe_calibrations(best, *errors)
    return ReportSection(
        f"calibration{suffix}", "Calibration", sentence, notes=notes, results=[table]
    )


def _measure_differences(
    listed: list[Measures], baseline: Experiment
) -> dict[str, dict[str, Interval]]:
    """Measure the differences from the baseline, paired by episode.

    Returns:
        Name of the experiment -> measure -> difference and half-width of its 95 % interval, for
        experiments with the same queries as the baseline.
    """
    columns = ("after", "confidence", *SCORES)
    reference = read_queries(baseline, "answers.parquet", columns)
    if reference is None:
        return {}
    seed = int(baseline.meta["seed"])
    by_episode = reference.groupby("episode")
    error: CalibrationError | None = None
    differences: dict[str, dict[str, Interval]] = {}
    for entry in listed:
        if entry.experiment is baseline:
            continue
        queries = read_queries(entry.experiment, "answers.parquet", columns)
        if queries is None or not have_same_queries(queries, reference):
            continue
        error = error or _measure_error(reference, seed)
        other = _measure_error(queries, seed)
        samples = other.samples - error.samples
        found = {"ece": (other.error - error.error, float(1.96 * samples.std(ddof=1)))}
        for name in SCORES:
            change = queries.groupby("episode")[name].mean() - by_episode[name].mean()
            found[name] = mean_ci95(change.to_numpy())
        differences[entry.experiment.name] = found
    return differences


def _measure_error(queries: pd.DataFrame, seed: int) -> CalibrationError:
    return measure_calibration_error(
        queries["confidence"].to_numpy(),
        (queries["after"] == queries["label"]).to_numpy(),
        queries["episode"].to_numpy(),
        seed,
    )


def _format_to_baseline(
    entry: Measures, baseline: Experiment, differences: dict[str, dict[str, Interval]], key: str
) -> str:
    if entry.experiment is baseline:
        return "baseline"
    if entry.experiment.name not in differences:
        return ""
    difference, ci95 = differences[entry.experiment.name][key]
    if key == "ece":
        text = f"{100 * difference:+.1f} ± {100 * ci95:.1f}"
    else:
        text = f"{difference:+.3f} ± {ci95:.3f}"
    return text.replace("-", "−")
