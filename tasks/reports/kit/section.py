"""What a section of the report consists of: a sentence, the picture that it is about, and the numbers to look up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.results import Results


@dataclass(frozen=True)
class Figure:
    """A chart; `alt` says in words what it shows."""

    name: str
    spec: dict[str, Any]
    alt: str


@dataclass(frozen=True)
class Table:
    """Cells in words; columns of `numeric` are aligned right; `links`: an address a row ('' for none), put on its last cell."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    links: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """`name` is its anchor; `sentence` says what the picture shows; `notes` say how it was measured."""

    name: str
    heading: str
    sentence: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def chance(results: Results) -> float | None:
    return 1 / results.meta["ways"] if results.kind == "classification" else None


def axis_title(results: Results) -> str:
    return "accuracy" if results.score == "accuracy" else "mean squared error"


def axis(results: Results, title: str | None = None) -> alt.Axis:
    """The axis that the score is read on."""
    return alt.Axis(
        title=title or axis_title(results),
        format=".0%" if results.score == "accuracy" else "~r",
        tickCount=5,
    )


def domain(results: Results, values: pd.Series) -> tuple[float, float]:
    """Of a line chart's y axis: accuracy from below chance to 1, an error from 0 to what nearly all of the values need."""
    values = values[np.isfinite(values)]
    if results.score == "accuracy":
        low = min(float(values.min()), chance(results) or 1.0)
        return max(0.0, float(np.floor(low * 10 - 0.1) / 10)), 1.0
    return 0.0, float(min(values.max(), 3 * values.quantile(0.9))) * 1.05


def figure(name: str, chart: charts.Layers, what: str, sentence: str, height: int = 260) -> Figure:
    return Figure(name, charts.page_spec(chart, height), f"{what} {sentence}")


def row(
    results: Results,
    name: str,
    value: float,
    ci95: float | None,
    colour: str,
    detail: str,
    shape: str = "circle",
    ink: str | None = None,
) -> dict[str, Any]:
    """One line of `charts.dots`; ink: the name's colour, if not the dot's."""
    half = np.nan if ci95 is None else ci95
    low, high = value - half, value + half
    if results.score == "accuracy":
        low, high = max(low, 0.0), min(high, 1.0)
    text = wording.figure(results.score, value, half)
    look = {"colour": colour, "words": ink or f"{colour}-text", "shape": shape}
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "text": text,
        "detail": detail,
    } | look


def dot_figure(
    results: Results, name: str, rows: list[dict[str, Any]], told: str, rule: float | None = None
) -> Figure:
    """Dots with intervals; the axis starts below the lowest interval (accuracy) or at 0 (error)."""
    frame = pd.DataFrame(rows)
    ends = pd.concat([frame["value"], frame["low"], frame["high"]]).dropna()
    ends = ends[np.isfinite(ends)]
    scale = "linear"
    if results.score == "accuracy":
        limits = (max(0.0, float(np.floor(10 * ends.min() - 0.2) / 10)), 1.0)
        rule = rule if rule is not None and rule >= limits[0] else None
    elif ends.max() > 100 * max(
        float(frame["value"].min()), 1e-9
    ):  # one diverged mean would flatten all others
        scale, limits = "log", (float(frame["value"].min()) / 2, float(ends.max()) * 1.2)
        frame["low"] = frame["low"].clip(lower=limits[0])
    else:
        limits = (0.0, float(ends.max()) * 1.05)
    chart = charts.dots(frame, axis(results), limits, rule, scale)
    return Figure(name, charts.page_spec(chart, charts.ROW * len(rows)), told)


def numbers(caption: str, results: Results, rows: list[dict[str, Any]]) -> Table:
    """The lines of a dot chart, to look up."""
    cells = [[r["name"], r["text"], r["detail"]] for r in rows]
    return Table(
        caption, ["", f"{axis_title(results)}, 95 % interval", "from"], cells, frozenset({1})
    )
