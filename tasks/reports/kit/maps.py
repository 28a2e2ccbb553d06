"""Pictures of many classes or tasks at once: maps, clouds of dots with their means, and tables in colour. As `tasks.reports.kit.charts`, whose colours
and ways to draw they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from tasks.reports.kit.charts import Layers, haloed, var

SERIES = ("model", "wrong", "other", "training", "early", "published")
"""Colours of up to six groups; all others are grey."""

PICTURE = 26
"""Height of a picture on a map in pixels."""


def atlas(
    points: pd.DataFrame,
    shown: pd.DataFrame,
    titles: tuple[str, str],
    tooltip: Sequence[alt.Tooltip],
    pointed: str = "",
    numbers: bool = False,
) -> Layers:
    """Dots on a map, some with their picture or name.

    points: `x`, `y`, `colour` (of PALETTE) and what tooltips show, those to be seen best last; shown: `x`, `y`, and `picture` (a data
    address) or `said`; pointed: the column whose equals come to the front with the dot under the pointer
    numbers: whether the axes have a scale, as quantities have and places in a space do not
    """
    x, y = (
        alt.X("x:Q", axis=_axis(titles[0], numbers), scale=_padded(points["x"], 0.04)),
        alt.Y("y:Q", axis=_axis(titles[1], numbers), scale=_padded(points["y"], 0.1)),
    )
    points = points.assign(ink=[var(colour) for colour in points["colour"]])
    base = alt.Chart(points).encode(x=x, y=y)
    dots = base.mark_point(filled=True, size=46, stroke=var("paper"), strokeWidth=0.75).encode(
        fill=alt.Fill("ink:N", scale=None), tooltip=list(tooltip)
    )
    if pointed:
        chosen = alt.selection_point(
            name="pointed",
            on="pointerover",
            clear="pointerout",
            fields=[pointed],
            nearest=False,
            empty=True,
        )
        opacity = alt.when(chosen).then(alt.value(0.9)).otherwise(alt.value(0.12))
        dots = dots.encode(opacity=opacity).add_params(chosen)
    else:
        dots = dots.encode(opacity=alt.value(0.75))
    layers: list[alt.Chart] = [dots]
    if len(shown) and "picture" in shown:
        picture = alt.Chart(shown).mark_image(width=PICTURE, height=PICTURE, baseline="bottom")
        layers.append(picture.encode(x=x, y=y, url="picture:N"))
    elif len(shown):
        layers += haloed(
            alt.Chart(shown).encode(x=x, y=y, text="said:N"), dy=-7, align="center", limit=150
        )
    return alt.layer(*layers)


def _axis(title: str, numbers: bool) -> alt.Axis:
    return alt.Axis(title=title, labels=numbers, ticks=numbers, grid=True, tickCount=5)


def _padded(values: pd.Series, share: float) -> alt.Scale:
    low, high = float(values.min()), float(values.max())
    pad = share * max(high - low, 1e-9)
    return alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)


def cloud(
    points: pd.DataFrame,
    means: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltips: tuple[list, list],
) -> Layers:
    """Dots, and in front of them the means of parts of them, with intervals.

    points: `x`, `y`; means: `x`, `y`, `low`, `high`, `from`, `to` (the range of x that it is over); tooltips: of the dots, of the means
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    dots = alt.Chart(points).mark_point(
        filled=True, size=30, opacity=0.3, color=var("baseline"), clip=True
    )
    base, blue = alt.Chart(means), var("model")
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
            stroke=var("paper"),
            strokeWidth=1.5,
            clip=True,
        ).encode(x=x, y=y, tooltip=tooltips[1]),
    ]
    return alt.layer(*layers)


def heat(
    cells: pd.DataFrame,
    titles: tuple[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """A table in one colour, the stronger the higher.

    cells: `row`, `column`, `strength` (0 to 1), `said` and what tooltips show; titles: of columns and rows
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
    square = base.mark_rect(fill=var("model"), stroke=var("paper"), strokeWidth=2).encode(
        opacity=opacity, tooltip=list(tooltip)
    )
    return alt.layer(
        square, base.mark_text(baseline="middle", color=var("ink")).encode(text="said:N")
    )


def law(
    dots: pd.DataFrame,
    line: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Measurements with intervals, and a fitted line with its band.

    dots: `x`, `y`, `low`, `high` and what tooltips show; line: `x` and, where there is a fit, `y`, `low`, `high`
    """
    layers: list[alt.Chart] = []
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    if "y" in line:
        fitted = alt.Chart(line).encode(x=x)
        band = fitted.mark_area(color=var("early"), opacity=0.18, clip=True)
        layers += [
            band.encode(y=alt.Y("low:Q", **y_axis), y2="high:Q"),
            fitted.mark_line(color=var("early"), strokeWidth=2, clip=True).encode(y=y),
        ]
    base = alt.Chart(dots).encode(x=x)
    interval = base.mark_rule(
        strokeWidth=4, strokeCap="round", opacity=0.45, color=var("model"), clip=True
    )
    point = base.mark_point(
        filled=True,
        size=100,
        opacity=1,
        fill=var("model"),
        stroke=var("paper"),
        strokeWidth=1.5,
        clip=True,
    )
    return alt.layer(
        *layers,
        interval.encode(y=alt.Y("low:Q", **y_axis), y2="high:Q"),
        point.encode(y=y, tooltip=list(tooltip)),
    )
