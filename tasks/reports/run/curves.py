"""How it got there: the course of the training, of the adaptation, and what batch norm's statistics add."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import Line
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import (
    Section,
    Table,
    axis,
    axis_title,
    chance,
    domain,
    dot_figure,
    figure,
    numbers,
    row,
)

ROWS = 300
"""A training history is drawn in at most so many points, means over neighbours."""

LABELS = 0.075
"""Least distance of two names at the lines' ends, in heights of the chart."""


def learning(results: Results) -> Section:
    """Training (raw and smoothed) and validation over the iterations."""
    score, validation, config = results.score, results.validation, results.config
    train = _thinned(results.train.dropna(subset=[_training_column(results)]))
    raw = pd.DataFrame({"x": train["iteration"], "y": train[_training_column(results)]})
    smooth = raw.assign(
        y=raw["y"].rolling(max(3, len(raw) // 15), center=True, min_periods=1).mean()
    )
    smooth["figure"] = [wording.figure(score, y) for y in smooth["y"]]
    checked = _banded(results, validation["iteration"], validation)
    best, iterations = int(config["iteration"]), int(config["iterations"])
    lines = [
        Line("", "training", raw, faint=True),
        Line("training", "training", smooth, points=False, width=2),
        Line("validation", "model", checked),
    ]
    low, high = domain(results, pd.concat([raw["y"], checked["low"], checked["high"]]))
    last = max(iterations, int(checked["x"].max()), int(raw["x"].max()))
    chart = charts.curves(
        lines,
        {
            "axis": alt.Axis(title="iteration", format=",d", tickCount=5),
            "scale": alt.Scale(domain=[0, last], nice=False),
        },
        {"axis": axis(results), "scale": alt.Scale(domain=[low, high], nice=False)},
        labels_gap=LABELS * (high - low),
        marks=[(float(best), "best")] if best else [],
        marks_above=score == "mse",
        rule=_chance_rule(results),
        tooltip=[
            alt.Tooltip("x:Q", title="iteration", format=",d"),
            alt.Tooltip("figure:N", title=axis_title(results)),
        ],
    )
    sentence = wording.learning(score, validation, best, iterations)
    cells = [
        [
            f"{int(v['iteration']):,}",
            wording.figure(score, v[score], v[f"{score}_ci95"]),
            wording.number(v["loss"]),
            "yes" if v["best"] else "",
        ]
        for v in validation.to_dict("records")
    ]
    table = Table(
        "Validation during training",
        ["iteration", axis_title(results), "loss", "best so far"],
        cells,
        frozenset({0, 1, 2}),
    )
    notes = [
        "Training is smoothed (single measurements faint); validation has its 95 % interval over the fixed validation episodes. "
        "The model of this report is the best by validation."
    ]
    drawn = figure(
        "learning",
        chart,
        f"Training and validation {axis_title(results)} over the iterations.",
        sentence,
    )
    return Section("learning", "How it learned", sentence, [drawn], notes, [table])


def adaptation(results: Results) -> Section:
    """The figure after 0, 1, ... inner steps, in both modes where they differ; for errors the median too."""
    if not results.adapts:
        said = (
            "In one go: the method takes no inner steps, it answers from the support set as it is."
        )
        return Section("adaptation", "How it adapts", said)
    score, episodes = results.score, int(results.metrics["episodes"])
    modes = {results.mode: "model"} | ({results.other_mode: "other"} if results.other_mode else {})
    courses = {mode: results.course(mode) for mode in modes}
    course = courses[results.mode]
    lines = []
    for mode, colour in modes.items():
        name = mode if results.other_mode else "mean" if score == "mse" else "this model"
        lines.append(
            Line(
                name,
                colour,
                _banded(results, courses[mode]["step"], courses[mode]),
                dash=(1, 0) if colour == "model" else (6, 3),
            )
        )
    if "mse_median" in course:
        middle = pd.DataFrame(
            {
                "x": course["step"],
                "y": course["mse_median"],
                "figure": [wording.number(y) for y in course["mse_median"]],
            }
        )
        lines.append(Line("median", "model", middle, dash=(6, 3)))
    for line in lines:
        line.data["n"] = episodes
    # What diverged may leave the frame: it would flatten all the rest.
    steady = (
        course["diverged"].to_numpy() == 0 if "diverged" in course else np.full(len(course), True)
    )
    seen = [
        line.data[c][steady[: len(line.data)]]
        for line in lines
        for c in ("y", "low", "high")
        if c in line.data
    ]
    low, high = domain(results, pd.concat(seen) if steady.any() else course[score])
    first, last = int(course["step"].min()), int(course["step"].max())
    chart = charts.curves(
        lines,
        {
            "axis": alt.Axis(title="inner steps", format="d", values=course["step"].tolist()),
            "scale": alt.Scale(domain=[first, last], nice=False),
        },
        {"axis": axis(results), "scale": alt.Scale(domain=[low, high], nice=False)},
        labels_gap=LABELS * (high - low),
        marks=_marks(results, last),
        marks_above=score == "mse",
        rule=_chance_rule(results),
        tooltip=[
            alt.Tooltip("x:Q", title="inner steps"),
            alt.Tooltip("figure:N", title=axis_title(results)),
            alt.Tooltip("n:Q", title="episodes", format=",d"),
        ],
    )
    sentence = wording.adaptation(score, course)
    notes = [
        "Each step is one gradient step on the support set; the figure is that of the query set, with its 95 % interval over test episodes."
    ]
    diverged = results.metrics.get("after_10.diverged")
    if diverged:
        notes.append(
            f"After ten steps {wording.count(diverged, 'episode')} diverged: the mean follows, the median does not."
        )
    drawn = figure(
        "adaptation",
        chart,
        f"{axis_title(results).capitalize()} after {first} to {last} inner steps.",
        sentence,
    )
    return Section(
        "adaptation", "How it adapts", sentence, [drawn], notes, [_step_table(results, courses)]
    )


def modes(results: Results) -> list[Section]:
    """Both ways of normalising, after the headline's number of steps."""
    heading = "Transductive and inductive"
    if results.curve["mode"].nunique() < 2:
        return []
    if results.other_mode is None:
        return [
            Section(
                "statistics",
                heading,
                "Both ways of normalising give the same figures: the network has no batch norm.",
            )
        ]
    rows = []
    for mode, colour in ((results.mode, "model"), (results.other_mode, "other")):
        course = results.course(mode)
        at = course[course["step"] == results.steps].iloc[0]
        detail = wording.count(results.metrics["episodes"], "test episode")
        rows.append(
            row(results, mode, at[results.score], at[f"{results.score}_ci95"], colour, detail)
        )
    gap = rows[0]["value"] - rows[1]["value"]
    side = f"{wording.points(gap)} {'above' if gap >= 0 else 'below'}"
    sentence = f"{results.mode.capitalize()} statistics score {side} {results.other_mode} ones: the same weights, the same episodes."
    notes = [
        "Transductive: batch norm takes its statistics from the whole query set, so that one query's answer depends on the others. "
        f"Inductive: from the support set alone, as if queries came one by one. The weights were trained {results.mode}."
    ]
    tables = [numbers("The figures of the chart", results, rows)]
    return [
        Section(
            "statistics",
            heading,
            sentence,
            [dot_figure(results, "statistics", rows, sentence)],
            notes,
            tables,
        )
    ]


def _training_column(results: Results) -> str:
    return "accuracy" if results.kind == "classification" else "loss"


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    step = -(-len(table) // ROWS)
    return (
        table
        if step <= 1
        else table.groupby(np.arange(len(table)) // step).mean().reset_index(drop=True)
    )


def _banded(results: Results, x: pd.Series, table: pd.DataFrame) -> pd.DataFrame:
    """The data of a line with its 95 % band: `x`, `y`, `low`, `high`, and `figure` in words."""
    value, half = table[results.score], table[f"{results.score}_ci95"].fillna(0)
    top = 1.0 if results.score == "accuracy" else np.inf
    figures = [wording.figure(results.score, v, h) for v, h in zip(value, half, strict=True)]
    return pd.DataFrame(
        {
            "x": x,
            "y": value,
            "low": value - half,
            "high": (value + half).clip(upper=top),
            "figure": figures,
        }
    )


def _chance_rule(results: Results) -> tuple[float, str] | None:
    floor = chance(results)
    return None if floor is None else (floor, "chance")


def _marks(results: Results, last: int) -> list[tuple[float, str]]:
    """Steps in training and in the headline."""
    trained = results.config["algorithm"].get("inner_steps")
    if trained == results.steps:
        return [(float(results.steps), f"{trained} in training and here")]
    known = [(trained, "in training"), (results.steps, "in the headline")]
    return [
        (float(steps), f"{steps} {what}")
        for steps, what in known
        if steps is not None and steps <= last
    ]


def _step_table(results: Results, courses: dict[str, pd.DataFrame]) -> Table:
    first = next(iter(courses.values()))
    columns = {"inner steps": [str(int(step)) for step in first["step"]]}
    for mode, course in courses.items():
        name = f"{axis_title(results)}, {mode}" if len(courses) > 1 else axis_title(results)
        figures = zip(course[results.score], course[f"{results.score}_ci95"], strict=True)
        columns[name] = [wording.figure(results.score, value, half) for value, half in figures]
    more: dict[str, tuple[str, Callable[[float], str]]] = {
        "mse_median": ("median", wording.number),
        "diverged": ("episodes diverged", lambda v: f"{int(v):,}"),
    }
    for column, (name, shown) in more.items():
        if column in first:
            columns[name] = [shown(value) for value in first[column]]
    rows = [list(cells) for cells in zip(*columns.values(), strict=True)]
    return Table(
        "After each number of inner steps", list(columns), rows, frozenset(range(len(columns)))
    )
