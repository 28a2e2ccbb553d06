"""Pictures for report and comparison: one Vega-Lite spec each, for the page (interactive) and as SVG.

Colours are Okabe-Ito's, named by what they stand for and written into the specs as CSS variables: the page switches between
light and dark without drawing again, an SVG gets the light values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

PALETTE = {
    "paper": ("#ffffff", "#12151a"),
    "panel": ("#f5f7f9", "#1b2027"),
    "line": ("#dfe3e8", "#323a44"),
    "ink": ("#1b1f24", "#e7eaee"),
    "muted": ("#57606a", "#a3adb8"),
    "model": (
        "#0072b2",
        "#56b4e9",
    ),  # this model as the headline measures it; validation; a right answer
    "other": ("#009e73", "#009e73"),  # the same model under the other batch statistics
    "training": ("#cc79a7", "#cc79a7"),
    "wrong": ("#d55e00", "#d55e00"),  # a wrong answer
    "early": ("#e69f00", "#e69f00"),  # after one step, on the way
    "baseline": ("#7a828c", "#8d96a0"),
    "published": ("#1b1f24", "#e7eaee"),
    "model-text": ("#00639b", "#6cc0ef"),
    "other-text": ("#00704f", "#2bc79b"),
    "training-text": ("#9c3f74", "#dd9cbf"),
    "wrong-text": ("#a84700", "#f08a3c"),
    "early-text": ("#7f5700", "#e9ab25"),
    "baseline-text": ("#57606a", "#a3adb8"),
    "published-text": ("#1b1f24", "#e7eaee"),
}
"""Name -> colour on light and on dark paper. Marks and lines take a name, words in that colour NAME-text (contrast AA)."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
STATIC_FONT = "Arial, Helvetica, sans-serif"  # carried by vl-convert, so that an SVG does not depend on the machine's fonts

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "padding": {"left": 2, "top": 4, "right": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelPadding": 5,
        "titlePadding": 8,
        "labelFlush": True,
        "labelOverlap": True,
        "labelSeparation": 8,
    },
    "axisY": {
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "end",
        "titleX": 0,
        "titleY": -12,
        "titleBaseline": "bottom",
        "domain": False,
        "ticks": False,
        "labelFlush": False,
    },
    "axisX": {"grid": False, "ticks": True, "tickSize": 4, "titleAnchor": "end"},
    "text": {"fontSize": 12, "color": "var(--ink)"},
}

WIDTH = 720  # pixels of an SVG; in the page a chart is as wide as its container

ROW = 42
"""Pixels that one line of `dots` takes."""


Layers = alt.LayerChart | alt.FacetChart
"""What altair.layer returns, by its annotation."""


def var(name: str) -> str:
    return f"var(--{name})"


def page_spec(chart: Layers, height: int = 260) -> dict[str, Any]:
    """The chart as a Vega-Lite spec that fills its container's width; give it to vega-embed with CONFIG."""
    sized = chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    spec = sized.to_dict()
    spec.pop("config", None)
    return spec


def svg(spec: dict[str, Any]) -> str:
    """A page spec as SVG on light paper.

    The second drawing of a chart in one process differs from the first: draw each once, in a fixed order.
    """
    import vl_convert

    sized = spec | {"width": WIDTH} if spec.get("width") == "container" else spec
    text = json.dumps([sized, CONFIG | {"background": "var(--paper)"}])
    text = text.replace(json.dumps(FONT), json.dumps(STATIC_FONT))
    static, config = json.loads(
        re.sub(r"var\(--([a-z-]+)\)", lambda name: PALETTE[name[1]][0], text)
    )
    return vl_convert.vegalite_to_svg(static, config=config, allowed_base_urls=[]) + "\n"


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels: as near to `values` as an order-keeping distance of at least `gap` allows."""
    places = np.asarray(values, float).copy()
    order = np.argsort(places, kind="stable")
    for _ in range(200):
        apart = np.diff(places[order])
        near = np.flatnonzero(apart < gap - 1e-9)
        if not len(near):
            break
        for i in near:
            low, high = order[i], order[i + 1]
            push = (gap - (places[high] - places[low])) / 2
            if push > 0:
                places[low] -= push
                places[high] += push
    return places.tolist()


def haloed(chart: alt.Chart, **style: Any) -> list[alt.Chart]:
    """Words that stay legible over lines: drawn twice, first wide and in the paper's colour."""
    style = {"baseline": "bottom"} | style
    behind = chart.mark_text(
        **(style | {"stroke": var("paper"), "strokeWidth": 5, "strokeJoin": "round"})
    )
    return [behind.encode(color=alt.value(var("paper"))), chart.mark_text(**style)]


def dots(
    rows: pd.DataFrame,
    axis: alt.Axis,
    domain: tuple[float, float],
    rule: float | None = None,
    scale: Any = "linear",
) -> Layers:
    """Dots with intervals, one row a line, in the order given; the name stands above its line, the figure at its end.

    rows: `name`, `value`, `low`, `high` (NaN: no interval), `colour` and `words` (of PALETTE: dot and name), `shape`,
    `text` (the figure in words), `detail` (for the tooltip); rule: a dashed line, as for chance.
    """
    sizes = {"circle": 95, "square": 85, "diamond": 150}
    rows = rows.assign(
        row=[f"{i:03d}" for i in range(len(rows))],
        size=rows["shape"].map(sizes),
        ink=[var(c) for c in rows["colour"]],
        words=[var(c) for c in rows["words"]],
    )
    y = alt.Y("row:N", axis=None, scale=alt.Scale(type="point", padding=0.5))
    x: dict[str, Any] = {
        "axis": axis,
        "scale": alt.Scale(domain=domain, type=scale, nice=False, zero=False),
    }
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("text:N", title="figure"),
        alt.Tooltip("detail:N", title="from"),
    ]
    base = alt.Chart(rows).encode(y=y)
    layers: list[alt.Chart] = [base.mark_rule(color=var("line"))]
    if rule is not None:
        at = alt.Chart(pd.DataFrame({"value": [rule]}))
        layers.append(
            at.mark_rule(strokeDash=[4, 4], color=var("muted")).encode(x=alt.X("value:Q", **x))
        )
    interval = base.mark_rule(strokeWidth=5, strokeCap="round", opacity=0.45)
    layers.append(
        interval.encode(
            x=alt.X("low:Q", **x),
            x2="high:Q",
            color=alt.Color("ink:N", scale=None),
            tooltip=tooltip,
        )
    )
    look = {
        "fill": alt.Fill("ink:N", scale=None),
        "shape": alt.Shape("shape:N", scale=None),
        "size": alt.Size("size:Q", scale=None),
    }
    dot = base.mark_point(opacity=1, filled=True, stroke=var("paper"), strokeWidth=1.5)
    layers.append(dot.encode(x=alt.X("value:Q", **x), tooltip=tooltip, **look))
    name = base.encode(x=alt.value(0), text="name:N", color=alt.Color("words:N", scale=None))
    layers += haloed(name, align="left", dy=-6, fontWeight=600, limit=alt.ExprRef("width - 110"))
    layers.append(
        base.mark_text(align="right", baseline="bottom", dy=-6).encode(
            x=alt.value("width"), text="text:N"
        )
    )
    return alt.layer(*layers)


@dataclass(frozen=True)
class Line:
    """A line of `curves`.

    colour: of PALETTE; data: `x`, `y`, maybe `low` and `high` (its band), and what tooltips show; faint: thin and without a name.
    """

    name: str
    colour: str
    data: pd.DataFrame
    faint: bool = False
    points: bool = True
    width: float = 2.5
    dash: tuple[float, float] = (1, 0)


def curves(
    lines: Sequence[Line],
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    labels_gap: float,
    marks: Sequence[tuple[float, str]] = (),
    marks_above: bool = False,
    rule: tuple[float, str] | None = None,
    tooltip: Sequence[alt.Tooltip] = (),
) -> Layers:
    """Lines with 95 % bands, named at their right ends.

    x_axis, y_axis: `axis` and `scale` of the two encodings; labels_gap: least distance of two names, in units of y;
    marks: vertical dashed lines (x, words), named at the bottom, or at the top where the lines leave room there;
    rule: a horizontal one (y, words).
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    layers: list[alt.Chart] = []
    if rule is not None:
        at = alt.Chart(pd.DataFrame({"y": [rule[0]], "text": [rule[1]]})).encode(y=y)
        layers.append(at.mark_rule(strokeDash=[4, 4], color=var("muted")))
        words = at.mark_text(align="right", baseline="bottom", dy=-3, dx=-4, color=var("muted"))
        layers.append(words.encode(x=alt.value("width"), text="text:N"))
    for i, (place, said) in enumerate(
        marks
    ):  # one above the other, so that neighbours do not overlap
        at = alt.Chart(pd.DataFrame({"x": [place], "text": [said]})).encode(x=x)
        layers.append(at.mark_rule(color=var("muted"), strokeDash=[2, 3]))
        foot = at.encode(y=alt.value(0 if marks_above else "height"), text="text:N")
        layers += haloed(
            foot,
            align="left",
            dx=4,
            dy=14 + 18 * i if marks_above else -4 - 18 * i,
            color=var("muted"),
        )
    for line in lines:
        chart, colour = alt.Chart(line.data).encode(x=x), var(line.colour)
        if "low" in line.data:
            band = chart.mark_area(color=colour, opacity=0.16, clip=True)
            layers.append(band.encode(y=alt.Y("low:Q", **y_axis), y2="high:Q"))
        width, opacity = (1.0, 0.4) if line.faint else (line.width, 1.0)
        drawn = chart.mark_line(
            color=colour, strokeWidth=width, opacity=opacity, strokeDash=list(line.dash), clip=True
        )
        layers.append(drawn.encode(y=y))
    named = [line for line in lines if not line.faint]
    for line in named:
        chart = alt.Chart(line.data.assign(series=line.name)).encode(x=x, y=y)
        if line.points:
            layers.append(
                chart.mark_point(filled=True, size=34, opacity=1, color=var(line.colour), clip=True)
            )
        target = chart.mark_point(
            filled=True, size=300, opacity=0, color=var(line.colour), clip=True
        )  # unseen: something to point at
        layers.append(target.encode(tooltip=[alt.Tooltip("series:N", title=" "), *tooltip]))
    ends = pd.DataFrame(
        [
            {"y": line.data["y"].iloc[-1], "text": line.name, "ink": var(f"{line.colour}-text")}
            for line in named
        ]
    )
    ends["y"] = spread(
        ends["y"].clip(*y_axis["scale"].domain).tolist(), labels_gap
    )  # a line may end outside the frame
    label = alt.Chart(ends).mark_text(align="left", dx=8, fontWeight=600)
    layers.append(
        label.encode(x=alt.value("width"), y=y, text="text:N", color=alt.Color("ink:N", scale=None))
    )
    return alt.layer(*layers)


def distribution(
    bars: pd.DataFrame,
    behind: pd.DataFrame,
    summary: dict[str, float],
    x_axis: dict[str, Any],
    y_title: str,
) -> Layers:
    """A histogram in front of another one; above it the mean (dot), the middle half (thick) and 5 to 95 % (thin).

    bars, behind: `low`, `high`, `range` (in words), `share` (of the episodes), `episodes`, `of` (whose they are); behind may be empty;
    summary: `mean`, `q05`, `q25`, `q75`, `q95`; x_axis: `axis` and `scale` of the encoding.
    """
    most = max(float(frame["share"].max()) for frame in (bars, behind) if len(frame))
    x = alt.X("low:Q", **x_axis)
    y = alt.Y(
        "share:Q",
        axis=alt.Axis(format="%", title=y_title, tickCount=5),
        scale=alt.Scale(domain=[0, 1.15 * most], nice=False),
    )  # room for names
    tooltip = [
        alt.Tooltip("of:N", title=" "),
        alt.Tooltip("range:N", title="between"),
        alt.Tooltip("episodes:Q", title="episodes"),
        alt.Tooltip("share:Q", format=".1%"),
    ]
    layers: list[alt.Chart] = []
    for frame, colour, opacity, gap in ((behind, "baseline", 0.35, 0), (bars, "model", 0.9, 1)):
        if len(frame):
            shape = alt.Chart(frame).mark_bar(
                color=var(colour),
                opacity=opacity,
                binSpacing=0,
                stroke=var("paper"),
                strokeWidth=gap,
            )
            layers.append(shape.encode(x=x, x2="high:Q", y=y, y2=alt.Y2(datum=0), tooltip=tooltip))
    strip, above = alt.Chart(pd.DataFrame([summary])), alt.value(-34)
    line: dict[str, Any] = {"color": var("model"), "strokeCap": "round"}
    mean = alt.X("mean:Q", **x_axis)
    layers += [
        strip.mark_rule(strokeWidth=1.5, **line).encode(
            x=alt.X("q05:Q", **x_axis), x2="q95:Q", y=above
        ),
        strip.mark_rule(strokeWidth=6, **line).encode(
            x=alt.X("q25:Q", **x_axis), x2="q75:Q", y=above
        ),
        strip.mark_rule(strokeDash=[3, 3], color=var("ink")).encode(
            x=mean, y=above, y2=alt.value("height")
        ),
        strip.mark_point(
            filled=True,
            size=110,
            opacity=1,
            fill=var("model"),
            stroke=var("paper"),
            strokeWidth=1.5,
        ).encode(x=mean, y=above),
    ]
    return alt.layer(
        *layers, *_names([(bars, "model-text"), (behind, "baseline-text")], x, y, x_axis["scale"])
    )


def _names(
    frames: Sequence[tuple[pd.DataFrame, str]], x: alt.X, y: alt.Y, scale: alt.Scale
) -> list[alt.Chart]:
    """Each histogram's name over its highest bar; over the highest of all, one above the other, where the bars are too near for that."""
    low, high = scale.domain
    peaks = []
    for frame, colour in frames:
        if len(frame):
            top = frame.iloc[int(frame["share"].to_numpy().argmax())]
            middle = (top["low"] + top["high"]) / 2
            at = (
                np.log(middle / low) / np.log(high / low)
                if scale.type == "log"
                else (middle - low) / (high - low)
            )
            peaks.append((at, top, colour))
    together = len(peaks) == 2 and abs(peaks[0][0] - peaks[1][0]) < 0.4
    highest = max(peaks, key=lambda peak: peak[1]["share"])
    layers = []
    for i, (at, top, colour) in enumerate(peaks):
        text = top["of"]
        at, top = highest[:2] if together else (at, top)
        side = "left" if at < 0.4 else "right" if at > 0.75 else "center"
        edge = {"left": top["low"], "center": (top["low"] + top["high"]) / 2, "right": top["high"]}[
            side
        ]
        place = alt.Chart(
            pd.DataFrame({"low": [edge], "share": [top["share"]], "text": [text]})
        ).encode(x=x, y=y, text="text:N")
        layers += haloed(
            place, align=side, dy=-4 - 15 * i * together, fontWeight=600, color=var(colour)
        )
    return layers


def overlay(
    frame: pd.DataFrame,
    ends: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Many lines, of which the one under the pointer comes to the front.

    frame: `name`, `x`, `y`, `ink` (a colour), `faint` (drawn thin until pointed at), and what tooltips show;
    ends: `y`, `name`, `ink`: names at the right end, already spread
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    pointed = alt.selection_point(
        name="pointed",
        on="pointerover",
        clear="pointerout",
        fields=["name"],
        nearest=False,
        empty=False,
    )
    base = alt.Chart(frame).encode(x=x, y=y, detail="name:N", color=alt.Color("ink:N", scale=None))
    width = (
        alt.when(pointed)
        .then(alt.value(4))
        .when("datum.faint")
        .then(alt.value(1))
        .otherwise(alt.value(2.25))
    )
    opacity = (
        alt.when(pointed)
        .then(alt.value(1))
        .when("datum.faint")
        .then(alt.value(0.35))
        .otherwise(alt.value(0.9))
    )
    lines = base.mark_line(clip=True).encode(strokeWidth=width, opacity=opacity)
    target = (
        base.mark_point(filled=True, size=160, clip=True)
        .encode(opacity=alt.value(0), tooltip=list(tooltip))
        .add_params(pointed)
    )
    names = alt.Chart(ends).mark_text(align="left", dx=8, fontWeight=600, limit=170)
    named = names.encode(
        x=alt.value("width"), y=y, text="name:N", color=alt.Color("ink:N", scale=None)
    )
    return alt.layer(lines, target, named)


def scatter(
    points: pd.DataFrame,
    front: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Dots with vertical intervals and the line of those that none is better than in both.

    points: `name`, `x`, `y`, `low`, `high`, `ink`, `words` (colours), `said` (a name beside the dot, or '');
    front: `x`, `y` in the order of x
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    base = alt.Chart(points).encode(x=x, color=alt.Color("ink:N", scale=None))
    line = (
        alt.Chart(front)
        .mark_line(interpolate="step-after", strokeDash=[4, 4], color=var("muted"), clip=True)
        .encode(x=x, y=y)
    )
    interval = base.mark_rule(strokeWidth=3, opacity=0.45, clip=True).encode(
        y=alt.Y("low:Q", **y_axis), y2="high:Q"
    )
    dots = base.mark_point(
        filled=True, size=95, opacity=1, stroke=var("paper"), strokeWidth=1.5
    ).encode(y=y, fill=alt.Fill("ink:N", scale=None), tooltip=list(tooltip))
    return alt.layer(
        line,
        interval,
        dots,
        *haloed(
            base.encode(y=y, text="said:N", color=alt.Color("words:N", scale=None)),
            align="left",
            dx=9,
            dy=4,
            baseline="middle",
            limit=200,
        ),
    )
