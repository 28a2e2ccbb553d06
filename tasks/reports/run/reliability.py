"""How far predictions can be trusted: unknown classes, prediction sets, other ways and shots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import Line
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Figure, ReportSection, Table, build_figure
from tasks.reports.run import sentences
from tasks.reports.run.facts import (
    SetFacts,
    UnknownFacts,
    read_sets,
    read_unknown,
    summarize_sizes,
)

BASELINE_SCORE = "max_softmax"
"""The score that the chosen one is compared with: the largest probability."""

POPULATIONS = {
    "other_classes": "queries of other test classes",
    "out_of_scope": "out-of-scope queries",
}
"""Names of the populations of unknown queries in detection.csv."""

LABELS_GAP = 0.075
"""Minimum distance of two names at the lines' ends, relative to the height of the chart."""

NUMBERS = ("likelihood", "brier", "set_size")
"""Ends of the names of columns of sizes.csv that are not fractions."""


def build_reliability_sections(results: Results) -> list[ReportSection]:
    """Build the sections about unknown classes, prediction sets, and other ways and shots.

    A section whose results were not measured is left out.
    """
    sections = [
        _build_unknown_section(results),
        _build_set_section(results),
        _build_size_section(results),
    ]
    return [section for section in sections if section is not None]


def _list_mode_notes(results: Results) -> list[str]:
    return [sentences.INDUCTIVE_NOTE] if results.other_mode is not None else []


# --- unknown classes ---------------------------------------------------------------------------


def _build_unknown_section(results: Results) -> ReportSection | None:
    facts = read_unknown(results)
    if facts is None:
        return None
    sentence = sentences.describe_unknown(facts)
    return ReportSection(
        "unknown",
        "Unknown classes",
        sentence,
        [_draw_selective_accuracy(results, facts, sentence)],
        sentences.list_unknown_notes(facts) + _list_mode_notes(results),
        [_tabulate_selective_accuracy(results)],
        _tabulate_detection(results, facts.score),
    )


def _draw_selective_accuracy(results: Results, facts: UnknownFacts, sentence: str) -> Figure:
    """Draw the accuracy by the share of answered queries, the chosen score in front."""
    table = results.selective
    colours = {BASELINE_SCORE: "baseline", facts.score: "model"}
    lines = []
    for key, colour in colours.items():
        curve = table[table["score"] == key]
        frame = pd.DataFrame(
            {
                "x": curve["answered"],
                "y": curve["accuracy"],
                "low": curve["low"],
                "high": curve["high"],
                "value": [_format_ends(row) for row in curve.to_dict("records")],
            }
        )
        name = wording.name_detection_score(key)
        lines.append(Line(name.removeprefix("distance from the "), colour, frame, points=False))
    low = max(0.0, float(table["low"].min()) // 0.1 / 10)
    chart = charts.draw_curves(
        lines,
        {
            "axis": alt.Axis(title="answered queries", format=".0%", tickCount=6),
            "scale": alt.Scale(domain=[0.0, 1.0], nice=False),
        },
        {
            "axis": alt.Axis(title="accuracy of the answers", format=".0%", tickCount=5),
            "scale": alt.Scale(domain=[low, 1.0], nice=False),
        },
        labels_gap=LABELS_GAP * (1 - low),
        marks=[(facts.known, "share of known classes")],
        marks_above=True,
        tooltip=[
            alt.Tooltip("x:Q", title="answered queries", format=".0%"),
            alt.Tooltip("value:N", title="accuracy"),
        ],
    )
    description = "Accuracy by the share of answered queries, those with the highest scores first."
    return build_figure("selective", chart, description, sentence)


def _tabulate_detection(results: Results, chosen: str) -> list[Table]:
    """Build a table of all scores for each population of unknown queries."""
    tables = []
    for population, rows in results.detection.groupby("population", sort=True):
        cells = [
            [
                wording.name_detection_score(row["score"])
                + (" (chosen)" if row["score"] == chosen else ""),
                wording.format_estimate("accuracy", row["auroc"], row["auroc_ci95"]),
                wording.format_estimate("accuracy", row["fpr"], row["fpr_ci95"]),
            ]
            for row in rows.to_dict("records")
        ]
        name = POPULATIONS.get(str(population), str(population))
        caption = f"Detection of {name}, with 95 % intervals over episodes"
        head = ["score", "AUROC", "FPR at 95 % TPR"]
        tables.append(Table(caption, head, cells, frozenset({1, 2})))
    return tables


def _tabulate_selective_accuracy(results: Results) -> Table:
    by_share = results.selective.groupby("answered", sort=True)
    keys = list(dict.fromkeys(results.selective["score"]))
    rows = []
    for share, of_share in by_share:
        by_score = {row["score"]: row for row in of_share.to_dict("records")}
        cells = [_format_ends(by_score[key]) if key in by_score else "" for key in keys]
        rows.append([wording.format_percent(float(str(share)), 0), *cells])
    head = ["answered", *(wording.name_detection_score(key) for key in keys)]
    caption = "Accuracy of the answers by score (95 % interval)"
    return Table(caption, head, rows, frozenset(range(1, len(head))))


def _format_ends(row: Mapping[Any, Any]) -> str:
    ends = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    return f"{wording.format_percent(row['accuracy'])} ({ends})"


# --- prediction sets ---------------------------------------------------------------------------


def _build_set_section(results: Results) -> ReportSection | None:
    facts = read_sets(results)
    if not facts:
        return None
    return ReportSection(
        "sets",
        "Prediction sets",
        sentences.describe_sets(facts),
        notes=[*sentences.SET_NOTES, *_list_mode_notes(results)],
        results=[_tabulate_sets(facts)],
    )


def _tabulate_sets(facts: list[SetFacts]) -> Table:
    rows = [
        [
            wording.format_percent(entry.promised, 0),
            wording.format_estimate("accuracy", *entry.coverage),
            wording.format_estimate("mse", *entry.size),
            wording.format_estimate("accuracy", *entry.empty),
        ]
        for entry in facts
    ]
    head = ["promised coverage", "measured coverage", "mean size", "empty sets"]
    caption = "Prediction sets on the test episodes, with 95 % intervals over episodes"
    return Table(caption, head, rows, frozenset({1, 2, 3}))


# --- other ways and shots ----------------------------------------------------------------------


def _build_size_section(results: Results) -> ReportSection | None:
    """Build the section that compares sizes; None if there is only one."""
    if len(results.sizes) < 2:
        return None
    return ReportSection(
        "sizes",
        "Other ways and shots",
        sentences.describe_reliability_by_size(summarize_sizes(results.sizes)),
        notes=[sentences.SIZE_NOTE, *_list_mode_notes(results)],
        tables=[_tabulate_further(results.sizes)],
        results=[_tabulate_sizes(results.sizes)],
    )


def _tabulate_sizes(sizes: pd.DataFrame) -> Table:
    columns = {
        "accuracy": "accuracy",
        "raw_ece": "ECE before",
        "ece": "ECE after",
        "set_coverage": "coverage",
        "set_size": "set size",
        "unknown_auroc": "AUROC",
        "unknown_fpr": "FPR",
    }
    caption = (
        "Results by size, with 95 % intervals. Expected calibration error (ECE) before and after "
        "calibration, coverage and mean size of 90 % sets, AUROC and FPR at 95 % TPR for unknown "
        "classes"
    )
    if not _is_calibrated(sizes):
        del columns["raw_ece"]
        columns["ece"] = "ECE"
        caption = caption.replace(" before and after calibration", "")
    return _tabulate_columns(sizes, columns, caption)


def _tabulate_further(sizes: pd.DataFrame) -> Table:
    columns = {
        "temperature": "temperature",
        "raw_likelihood": "NLL before",
        "likelihood": "NLL after",
        "raw_brier": "Brier score before",
        "brier": "Brier score after",
        "set_empty": "empty 90 % sets",
        "score": "score for unknown classes",
    }
    if not _is_calibrated(sizes):
        del columns["raw_likelihood"], columns["raw_brier"]
        columns |= {"likelihood": "NLL", "brier": "Brier score"}
    return _tabulate_columns(sizes, columns, "Further results (NLL: negative log-likelihood)")


def _is_calibrated(sizes: pd.DataFrame) -> bool:
    """Return whether the probabilities were calibrated."""
    return "temperature" in sizes and bool(sizes["temperature"].notna().any())


def _tabulate_columns(sizes: pd.DataFrame, columns: dict[str, str], caption: str) -> Table:
    """Build a table with one row per size, of those columns that were measured."""
    known = [key for key in columns if key in sizes and sizes[key].notna().any()]
    rows = [
        [str(row["ways"]), str(row["shots"]), *(_format_cell(row, key) for key in known)]
        for row in sizes.to_dict("records")
    ]
    head = ["ways", "shots", *(columns[key] for key in known)]
    numeric = frozenset(i for i, key in enumerate(["ways", "shots", *known]) if key != "score")
    return Table(caption, head, rows, numeric)


def _format_cell(row: Mapping[Any, Any], key: str) -> str:
    value = row[key]
    if pd.isna(value):
        return ""
    if key == "score":
        return wording.name_detection_score(value)
    if key == "temperature":
        return wording.format_decimal(value)
    kind = "mse" if key.endswith(NUMBERS) else "accuracy"
    return wording.format_estimate(kind, value, row[f"{key}_ci95"])
