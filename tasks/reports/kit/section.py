"""Sections of a report: a sentence, the charts that support it, notes and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from episodic.core.episode_size import compute_chance
from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import Dot
from tasks.reports.kit.results import Results


@dataclass(frozen=True)
class Figure:
    """A chart with a text alternative.

    Attributes:
        name: Its id on the page and the name of its SVG.
        spec: Vega-Lite spec.
        alt: Text alternative.
    """

    name: str
    spec: dict[str, Any]
    alt: str


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        caption: Its caption.
        head: Names of the columns.
        rows: Cells by row.
        numeric: Indices of the columns that are aligned right.
        links: Link of the last cell of each row ('' for none); may be empty.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    links: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReportSection:
    """A section of a report.

    Attributes:
        name: Its anchor.
        heading: Its heading.
        sentence: The result that the charts show.
        figures: The charts.
        notes: Notes on how the result was measured.
        tables: The numbers of the charts, folded on the page.
        results: Tables that are part of the result: next to the charts, and in Markdown.
    """

    name: str
    heading: str
    sentence: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    results: list[Table] = field(default_factory=list)


def compute_chance_level(results: Results) -> float | None:
    """Return the accuracy of guessing; None for regression."""
    return compute_chance(results.test["classes"]) if results.kind == "classification" else None


def build_score_axis(score: str, title: str | None = None) -> alt.Axis:
    """Return an axis for a score."""
    return alt.Axis(
        title=title or wording.name_score(score),
        format=".0%" if score == "accuracy" else "~r",
        tickCount=5,
    )


def choose_score_domain(results: Results, values: pd.Series) -> tuple[float, float]:
    """Return the limits of a line chart's vertical axis.

    Accuracy goes from below the chance level to 1; an error from 0 to a limit that nearly all
    values stay below.
    """
    values = values[np.isfinite(values)]
    if results.score == "accuracy":
        low = min(float(values.min()), compute_chance_level(results) or 1.0)
        return max(0.0, float(np.floor(low * 10 - 0.1) / 10)), 1.0
    return 0.0, float(min(values.max(), 3 * values.quantile(0.9))) * 1.05


def build_figure(
    name: str, chart: charts.Layers, description: str, sentence: str, height: int = 260
) -> Figure:
    """Build a figure whose text alternative is a description and the section's sentence."""
    return Figure(name, charts.build_page_spec(chart, height), f"{description} {sentence}")


def build_score_dot(
    score: str, name: str, value: float, ci95: float | None, detail: str, **look: str
) -> Dot:
    """Build a line of a dot chart from a score and the half-width of its interval.

    Args:
        score: `accuracy` or `mse`.
        name: Text above the line.
        value: The score.
        ci95: Half-width of its 95 % interval; None for none.
        detail: Source of the score.
        **look: `colour`, `text_colour` and `shape` of `Dot`.
    """
    half = np.nan if ci95 is None else ci95
    low, high = value - half, value + half
    if score == "accuracy":
        low, high = max(low, 0.0), min(high, 1.0)
    return Dot(name, value, low, high, wording.format_estimate(score, value, half), detail, **look)


def build_dot_figure(
    score: str, name: str, dots: Sequence[Dot], alt_text: str, rule: float | None = None
) -> Figure:
    """Build a dot chart.

    The axis starts just below the lowest interval for accuracy and at 0 for an error. It is
    logarithmic if one diverged mean would flatten all other errors.
    """
    values = np.array([dot.value for dot in dots])
    lows, highs = np.array([dot.low for dot in dots]), np.array([dot.high for dot in dots])
    ends = np.concatenate([values, lows, highs])
    ends = ends[np.isfinite(ends)]
    scale = "linear"
    if score == "accuracy":
        limits = (max(0.0, float(np.floor(10 * ends.min() - 0.2) / 10)), 1.0)
        rule = rule if rule is not None and rule >= limits[0] else None
    elif ends.max() > 100 * max(float(values.min()), 1e-9):
        scale, limits = "log", (float(values.min()) / 2, float(ends.max()) * 1.2)
        dots = [replace(dot, low=max(dot.low, limits[0])) for dot in dots]
    else:
        limits = (0.0, float(ends.max()) * 1.05)
    chart = charts.draw_dots(dots, build_score_axis(score), limits, rule, scale)
    return Figure(name, charts.build_page_spec(chart, charts.ROW_HEIGHT * len(dots)), alt_text)


def build_dot_table(caption: str, score: str, dots: Sequence[Dot]) -> Table:
    """Build the table of a dot chart."""
    head = ["", f"{wording.name_score(score)} (95 % interval)", "source"]
    return Table(caption, head, [[d.name, d.text, d.detail] for d in dots], frozenset({1}))
