"""Charts of many classes or tasks: maps, scatter plots with binned means, heatmaps, power laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from tasks.reports.kit.charts import Layers, css_variable, draw_outlined_text

SERIES_COLOURS = ("model", "wrong", "other", "training", "early", "published")
"""Colours of the first six groups or configurations; all others are grey."""

IMAGE_SIZE = 26
"""Size of an image on a map in pixels."""


def draw_scatter_map(
    points: pd.DataFrame,
    labels: pd.DataFrame,
    titles: tuple[str, str],
    tooltip: Sequence[alt.Tooltip],
    highlight: str = "",
    tick_labels: bool = False,
) -> Layers:
    """Draw a scatter map of points, some of them with an image or a label.

    Args:
        points: `x`, `y`, `colour` (a name of PALETTE) and the fields of the tooltips. Later points
            are drawn on top of earlier ones.
        labels: `x`, `y`, and `image` (a data URI) or `label`; may be empty.
        titles: Titles of the horizontal and the vertical axis.
        tooltip: Tooltips of the points.
        highlight: Column; hovering over a point highlights all points that share its value.
        tick_labels: Whether to label the axes. Turn off for projections, whose coordinates have no
            meaning.
    """
    x, y = (
        alt.X("x:Q", axis=_axis(titles[0], tick_labels), scale=_padded_scale(points["x"], 0.04)),
        alt.Y("y:Q", axis=_axis(titles[1], tick_labels), scale=_padded_scale(points["y"], 0.1)),
    )
    points = points.assign(css_colour=[css_variable(colour) for colour in points["colour"]])
    base = alt.Chart(points).encode(x=x, y=y)
    dots = base.mark_point(
        filled=True, size=46, stroke=css_variable("surface"), strokeWidth=0.75
    ).encode(fill=alt.Fill("css_colour:N", scale=None), tooltip=list(tooltip))
    if highlight:
        hovered = alt.selection_point(
            name="hovered",
            on="pointerover",
            clear="pointerout",
            fields=[highlight],
            nearest=False,
            empty=True,
        )
        opacity = alt.when(hovered).then(alt.value(0.9)).otherwise(alt.value(0.12))
        dots = dots.encode(opacity=opacity).add_params(hovered)
    else:
        dots = dots.encode(opacity=alt.value(0.75))
    layers: list[alt.Chart] = [dots]
    if len(labels) and "image" in labels:
        image = alt.Chart(labels).mark_image(width=IMAGE_SIZE, height=IMAGE_SIZE, baseline="bottom")
        layers.append(image.encode(x=x, y=y, url="image:N"))
    elif len(labels):
        label = alt.Chart(labels).encode(x=x, y=y, text="label:N")
        layers += draw_outlined_text(label, dy=-7, align="center", limit=150)
    return alt.layer(*layers)


def _axis(title: str, tick_labels: bool) -> alt.Axis:
    return alt.Axis(title=title, labels=tick_labels, ticks=tick_labels, grid=True, tickCount=5)


def _padded_scale(values: pd.Series, margin: float) -> alt.Scale:
    low, high = float(values.min()), float(values.max())
    pad = margin * max(high - low, 1e-9)
    return alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)


def draw_binned_scatter(
    points: pd.DataFrame,
    means: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltips: tuple[list, list],
) -> Layers:
    """Draw a scatter plot, with the means of its bins and their intervals on top.

    Args:
        points: `x` and `y`.
        means: `x`, `y`, `low`, `high`, and `from` and `to`, the limits of the bin.
        x_axis: `axis` and `scale` of the horizontal encoding.
        y_axis: `axis` and `scale` of the vertical encoding.
        tooltips: Tooltips of the points and of the means.
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    dots = alt.Chart(points).mark_point(
        filled=True, size=30, opacity=0.3, color=css_variable("baseline"), clip=True
    )
    base, blue = alt.Chart(means), css_variable("model")
    layers = [
        dots.encode(x=x, y=y, tooltip=tooltips[0]),
        base.mark_rule(strokeWidth=2, opacity=0.5, color=blue, clip=True).encode(
            x=alt.X("from:Q", **x_axis), x2="to:Q", y=y
        ),
        base.mark_rule(
            strokeWidth=5, strokeCap="round", opacity=0.45, color=blue, clip=True
        ).encode(x=x, y=alt.Y("low:Q", **y_axis), y2="high:Q"),
        base.mark_point(
            filled=True,
            size=110,
            opacity=1,
            fill=blue,
            stroke=css_variable("surface"),
            strokeWidth=1.5,
            clip=True,
        ).encode(x=x, y=y, tooltip=tooltips[1]),
    ]
    return alt.layer(*layers)


def draw_heatmap(
    cells: pd.DataFrame,
    titles: tuple[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Draw a heatmap in one colour.

    Args:
        cells: `row`, `column`, `strength` (0 to 1), `label` and the fields of the tooltips.
        titles: Titles of the columns and of the rows.
        rows: Names of the rows, from top to bottom.
        columns: Names of the columns, from left to right.
        tooltip: Tooltips of the cells.
    """
    x = alt.X(
        "column:N",
        sort=list(columns),
        axis=alt.Axis(
            title=titles[0],
            labelAngle=-45,
            labelLimit=110,
            labelOverlap=False,
            orient="top",
            titleAnchor="start",
        ),
    )
    y = alt.Y(
        "row:N",
        sort=list(rows),
        axis=alt.Axis(
            title=titles[1],
            labelLimit=130,
            labelOverlap=False,
            titleAlign="right",
            titleX=-8,
            titleY=-6,
        ),
    )
    base = alt.Chart(cells).encode(x=x, y=y)
    opacity = alt.Opacity(
        "strength:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 0.55]), legend=None
    )
    square = base.mark_rect(
        fill=css_variable("model"), stroke=css_variable("surface"), strokeWidth=2
    ).encode(opacity=opacity, tooltip=list(tooltip))
    label = base.mark_text(baseline="middle", color=css_variable("text")).encode(text="label:N")
    return alt.layer(square, label)


def draw_power_law(
    points: pd.DataFrame,
    line: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Draw measurements with their intervals and a fitted line with its band.

    Args:
        points: `x`, `y`, `low`, `high` and the fields of the tooltips.
        line: `x` and, if there is a fit, `y`, `low` and `high`.
        x_axis: `axis` and `scale` of the horizontal encoding.
        y_axis: `axis` and `scale` of the vertical encoding.
        tooltip: Tooltips of the points.
    """
    layers: list[alt.Chart] = []
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    if "y" in line:
        fitted = alt.Chart(line).encode(x=x)
        band = fitted.mark_area(color=css_variable("early"), opacity=0.18, clip=True)
        layers += [
            band.encode(y=alt.Y("low:Q", **y_axis), y2="high:Q"),
            fitted.mark_line(color=css_variable("early"), strokeWidth=2, clip=True).encode(y=y),
        ]
    base = alt.Chart(points).encode(x=x)
    interval = base.mark_rule(
        strokeWidth=4, strokeCap="round", opacity=0.45, color=css_variable("model"), clip=True
    )
    point = base.mark_point(
        filled=True,
        size=100,
        opacity=1,
        fill=css_variable("model"),
        stroke=css_variable("surface"),
        strokeWidth=1.5,
        clip=True,
    )
    return alt.layer(
        *layers,
        interval.encode(y=alt.Y("low:Q", **y_axis), y2="high:Q"),
        point.encode(y=y, tooltip=list(tooltip)),
    )
