"""Calibration: the reliability diagram, and the scores of the probabilities."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import css_variable
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Figure, ReportSection, Table, build_figure
from tasks.reports.run import sentences
from tasks.reports.run.facts import CALIBRATION_SCORES, CalibrationFacts, read_calibration

SERIES = {False: ("not calibrated", "baseline"), True: ("calibrated", "model")}
"""Name and colour of the probabilities without and with calibration."""

BINS = 20
"""Number of bars of the histogram of the confidence."""

LABEL_WIDTH = 40
"""Width of the vertical axes in pixels, which aligns the two charts."""


def build_calibration_section(results: Results) -> ReportSection | None:
    """Build the section about the probabilities; None for results of older versions."""
    facts = read_calibration(results)
    if facts is None:
        return None
    sentence = sentences.describe_calibration(facts)
    figures = [_draw_reliability(results, facts, sentence), _draw_confidence(results, sentence)]
    notes = sentences.list_calibration_notes(facts)
    return ReportSection(
        "calibration",
        "Calibration",
        sentence,
        figures,
        notes,
        [_tabulate_bins(results.reliability)],
        [_tabulate_scores(facts)],
    )


def _build_axes(results: Results, title: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the axis of the confidence, with or without a title, and the style of vertical axes.

    Both charts have equal margins, so their horizontal axes are aligned.
    """
    low = float(results.reliability["confidence"].min())
    x_axis = {
        "axis": alt.Axis(title=title, format=".0%", tickCount=6),
        "scale": alt.Scale(domain=[float(np.floor(10 * low) / 10), 1.0], nice=False),
    }
    return x_axis, {"minExtent": LABEL_WIDTH, "maxExtent": LABEL_WIDTH}


def _draw_reliability(results: Results, facts: CalibrationFacts, sentence: str) -> Figure:
    """Draw accuracy by confidence: points with their intervals, and the diagonal."""
    bins = results.reliability
    x_axis, style = _build_axes(results, None)
    start = float(x_axis["scale"].domain[0])
    low = min(start, float(np.floor(10 * bins["accuracy_low"].min()) / 10))
    y_axis: dict[str, Any] = {
        "axis": alt.Axis(title="accuracy", format=".0%", tickCount=6, **style),
        "scale": alt.Scale(domain=[low, 1.0], nice=False),
    }
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    diagonal = alt.Chart(pd.DataFrame({"x": [start, 1.0], "y": [start, 1.0]}))
    dashed = diagonal.mark_line(color=css_variable("muted"), strokeDash=[4, 4], strokeWidth=1.5)
    layers: list[alt.Chart] = [dashed.encode(x=x, y=y)]
    names = []
    for is_calibrated, of_series in bins.groupby("calibrated", sort=True):
        name, colour = SERIES[bool(is_calibrated)]
        names.append((name, f"{colour}-text"))
        frame = pd.DataFrame(
            {
                "x": of_series["confidence"],
                "y": of_series["accuracy"],
                "low": of_series["accuracy_low"],
                "high": of_series["accuracy_high"],
                "accuracy": [_format_interval(row) for row in of_series.to_dict("records")],
                "predictions": of_series["count"],
                "of": name,
            }
        )
        base = alt.Chart(frame).encode(
            x=x,
            tooltip=[
                alt.Tooltip("of:N", title=" "),
                alt.Tooltip("x:Q", title="confidence", format=".1%"),
                alt.Tooltip("accuracy:N"),
                alt.Tooltip("predictions:Q", format=","),
            ],
        )
        look: dict[str, Any] = {"color": css_variable(colour)}
        layers += [
            base.mark_rule(strokeWidth=5, strokeCap="round", opacity=0.35, **look).encode(
                y=alt.Y("low:Q", **y_axis), y2="high:Q"
            ),
            base.mark_line(strokeWidth=2, **look).encode(y=y),
            base.mark_point(
                filled=True,
                size=70,
                opacity=1,
                fill=css_variable(colour),
                stroke=css_variable("surface"),
                strokeWidth=1,
            ).encode(y=y),
        ]
    # In the corner away from the points, which are below the diagonal if confidence is too high.
    is_over = facts.confidence > facts.accuracy
    names.append(("dashed: confidence equals accuracy", "muted"))
    for i, (name, colour) in enumerate(names):
        offset = 14 + 18 * i if is_over else -10 - 18 * (len(names) - 1 - i)
        text = alt.Chart(pd.DataFrame({"text": [name]})).encode(
            text="text:N",
            x=alt.value(8 if is_over else alt.ExprRef("width - 8")),
            y=alt.value(offset if is_over else alt.ExprRef(f"height {offset}")),
        )
        layers += charts.draw_outlined_text(
            text,
            align="left" if is_over else "right",
            baseline="middle",
            fontWeight=400 if colour == "muted" else 600,
            color=css_variable(colour),
        )
    description = "Accuracy of predictions by their confidence, with the diagonal."
    return build_figure("reliability", alt.layer(*layers), description, sentence, 320)


def _draw_confidence(results: Results, sentence: str) -> Figure:
    """Draw the histograms of the confidence: an outline without calibration, bars with it."""
    x_axis, style = _build_axes(results, "confidence")
    edges = np.linspace(x_axis["scale"].domain[0], 1.0, BINS + 1)
    layers = []
    for is_calibrated in sorted(set(results.reliability["calibrated"]), reverse=True):
        name, colour = SERIES[bool(is_calibrated)]
        column = "confidence" if is_calibrated else "raw_confidence"
        values = np.maximum(results.predictions[column].to_numpy(), edges[0])
        counts, _ = np.histogram(values, edges)
        frame = pd.DataFrame(
            {
                "low": edges[:-1],
                "high": edges[1:],
                "share": counts / len(values),
                "predictions": counts,
                "of": name,
            }
        )
        bar = alt.Chart(frame).mark_bar(
            fill=css_variable(colour),
            fillOpacity=0.9 if is_calibrated else 0,
            binSpacing=0,
            stroke=css_variable("surface" if is_calibrated else colour),
            strokeWidth=1 if is_calibrated else 1.5,
        )
        y_axis = alt.Axis(title="share of predictions", format="%", tickCount=3, **style)
        layers.append(
            bar.encode(
                x=alt.X("low:Q", **x_axis),
                x2="high:Q",
                y=alt.Y("share:Q", axis=y_axis),
                y2=alt.Y2(datum=0),
                tooltip=[
                    alt.Tooltip("of:N", title=" "),
                    alt.Tooltip("low:Q", title="confidence from", format=".0%"),
                    alt.Tooltip("high:Q", title="to", format=".0%"),
                    alt.Tooltip("predictions:Q", format=","),
                    alt.Tooltip("share:Q", format=".1%"),
                ],
            )
        )
    description = "Histogram of the confidence of predictions."
    return build_figure("confidence", alt.layer(*layers), description, sentence, 110)


def _tabulate_scores(facts: CalibrationFacts) -> Table:
    """Build the table of the scores, which are better if lower."""
    names = {
        "ece": "expected calibration error",
        "brier": "Brier score",
        "likelihood": "negative log-likelihood",
    }
    measured = [facts.before] if facts.after is None else [facts.before, facts.after]
    rows = [
        [names[key], *(format_score(key, *scores[key]) for scores in measured)]
        for key in CALIBRATION_SCORES
    ]
    head = ["lower is better", *(SERIES[i == 1][0] for i in range(len(measured)))]
    caption = "Probabilities on the test episodes, with 95 % intervals"
    return Table(caption, head, rows, frozenset(range(1, len(head))))


def format_score(key: str, value: float, ci95: float) -> str:
    """Format a score of probabilities with its interval; a calibration error in percent."""
    return wording.format_estimate("accuracy" if key == "ece" else "mse", value, ci95)


def _tabulate_bins(bins: pd.DataFrame) -> Table:
    rows = [
        [
            SERIES[bool(row["calibrated"])][0],
            wording.format_percent(row["confidence"]),
            _format_interval(row),
            f"{row['count']:,}",
        ]
        for row in bins.to_dict("records")
    ]
    head = ["", "confidence", "accuracy", "predictions"]
    return Table("Groups of predictions by confidence", head, rows, frozenset({1, 2, 3}))


def _format_interval(row: dict[Any, Any]) -> str:
    ends = f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}"
    return f"{wording.format_percent(row['accuracy'])} ({ends})"
