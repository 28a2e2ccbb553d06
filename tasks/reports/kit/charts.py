"""Charts of the reports: Vega-Lite specs, for the interactive page and for SVG files.

The colours are Okabe and Ito's, named by their meaning. Specs refer to them as CSS variables, so
the page switches between light and dark without redrawing. SVG files use the light colours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

PALETTE = {
    "surface": ("#ffffff", "#12151a"),
    "panel": ("#f5f7f9", "#1b2027"),
    "line": ("#dfe3e8", "#323a44"),
    "text": ("#1b1f24", "#e7eaee"),
    "muted": ("#57606a", "#a3adb8"),
    "model": ("#0072b2", "#56b4e9"),  # the model's headline score; validation; correct predictions
    "other": ("#009e73", "#009e73"),  # the model in the other batch-norm mode
    "training": ("#cc79a7", "#cc79a7"),
    "wrong": ("#d55e00", "#d55e00"),  # wrong predictions
    "early": ("#e69f00", "#e69f00"),  # after one inner step
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
"""Name -> colours on a light and on a dark background.

Marks and lines use NAME; text in that colour uses NAME-text, whose contrast meets WCAG AA.
"""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
STATIC_FONT = "Arial, Helvetica, sans-serif"
"""Font of an SVG. vl-convert bundles it, so the SVG does not depend on installed fonts."""

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
    "text": {"fontSize": 12, "color": "var(--text)"},
}

WIDTH = 720
"""Width of an SVG in pixels. On the page a chart fills the width of its container."""

ROW_HEIGHT = 42
"""Height of one line of `draw_dots` in pixels."""

Layers = alt.LayerChart | alt.FacetChart
"""The return type of altair.layer."""


def css_variable(name: str) -> str:
    """Return the CSS variable of a colour of PALETTE."""
    return f"var(--{name})"


def build_page_spec(chart: Layers, height: int = 260) -> dict[str, Any]:
    """Return a chart as a Vega-Lite spec that fills the width of its container.

    Pass the spec to vega-embed together with CONFIG.
    """
    sized = chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    spec = sized.to_dict()
    spec.pop("config", None)
    return spec


def render_svg(spec: dict[str, Any]) -> str:
    """Render a page spec as an SVG with a light background.

    Rendering the same chart twice in one process gives different bytes. For reproducible files
    render each chart once and in a fixed order.
    """
    import vl_convert

    sized = spec | {"width": WIDTH} if spec.get("width") == "container" else spec
    text = json.dumps([sized, CONFIG | {"background": "var(--surface)"}])
    text = text.replace(json.dumps(FONT), json.dumps(STATIC_FONT))
    static, config = json.loads(
        re.sub(r"var\(--([a-z-]+)\)", lambda name: PALETTE[name[1]][0], text)
    )
    return vl_convert.vegalite_to_svg(static, config=config, allowed_base_urls=[]) + "\n"


def spread_labels(values: Sequence[float], gap: float) -> list[float]:
    """Return positions for labels, close to `values`, in their order and at least `gap` apart."""
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


def draw_outlined_text(chart: alt.Chart, **style: Any) -> list[alt.Chart]:
    """Draw text with an outline in the background colour, legible on top of lines."""
    style = {"baseline": "bottom"} | style
    behind = chart.mark_text(
        **(style | {"stroke": css_variable("surface"), "strokeWidth": 5, "strokeJoin": "round"})
    )
    return [behind.encode(color=alt.value(css_variable("surface"))), chart.mark_text(**style)]


@dataclass(frozen=True)
class Dot:
    """A line of `draw_dots`: a value with its interval.

    Attributes:
        name: Text above the line.
        value: Position of the dot.
        low: Lower end of the interval; NaN for none.
        high: Upper end of the interval; NaN for none.
        text: The value as text, at the end of the line.
        detail: Source of the value, for the tooltip.
        colour: Colour of the dot, a name of PALETTE.
        text_colour: Colour of the name; empty for the colour of the dot.
        shape: `circle`, `square` or `diamond`.
    """

    name: str
    value: float
    low: float
    high: float
    text: str
    detail: str
    colour: str = "model"
    text_colour: str = ""
    shape: str = "circle"


def draw_dots(
    values: Sequence[Dot],
    axis: alt.Axis,
    domain: tuple[float, float],
    rule: float | None = None,
    scale: Any = "linear",
) -> Layers:
    """Draw values with their intervals, one per line, in the given order.

    Args:
        values: The lines, from top to bottom.
        axis: The horizontal axis.
        domain: Its limits.
        rule: Position of a dashed vertical line, such as the chance level.
        scale: Type of the scale: `linear` or `log`.
    """
    sizes = {"circle": 95, "square": 85, "diamond": 150}
    rows = pd.DataFrame([asdict(dot) for dot in values])
    rows = rows.assign(
        row=[f"{i:03d}" for i in range(len(rows))],
        size=rows["shape"].map(sizes),
        css_colour=[css_variable(dot.colour) for dot in values],
        css_text_colour=[css_variable(dot.text_colour or f"{dot.colour}-text") for dot in values],
    )
    y = alt.Y("row:N", axis=None, scale=alt.Scale(type="point", padding=0.5))
    x: dict[str, Any] = {
        "axis": axis,
        "scale": alt.Scale(domain=domain, type=scale, nice=False, zero=False),
    }
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("text:N", title="value"),
        alt.Tooltip("detail:N", title="source"),
    ]
    base = alt.Chart(rows).encode(y=y)
    layers: list[alt.Chart] = [base.mark_rule(color=css_variable("line"))]
    if rule is not None:
        at = alt.Chart(pd.DataFrame({"value": [rule]}))
        layers.append(
            at.mark_rule(strokeDash=[4, 4], color=css_variable("muted")).encode(
                x=alt.X("value:Q", **x)
            )
        )
    interval = base.mark_rule(strokeWidth=5, strokeCap="round", opacity=0.45)
    layers.append(
        interval.encode(
            x=alt.X("low:Q", **x),
            x2="high:Q",
            color=alt.Color("css_colour:N", scale=None),
            tooltip=tooltip,
        )
    )
    encoding = {
        "fill": alt.Fill("css_colour:N", scale=None),
        "shape": alt.Shape("shape:N", scale=None),
        "size": alt.Size("size:Q", scale=None),
    }
    dot = base.mark_point(opacity=1, filled=True, stroke=css_variable("surface"), strokeWidth=1.5)
    layers.append(dot.encode(x=alt.X("value:Q", **x), tooltip=tooltip, **encoding))
    name = base.encode(
        x=alt.value(0), text="name:N", color=alt.Color("css_text_colour:N", scale=None)
    )
    layers += draw_outlined_text(
        name, align="left", dy=-6, fontWeight=600, limit=alt.ExprRef("width - 110")
    )
    layers.append(
        base.mark_text(align="right", baseline="bottom", dy=-6).encode(
            x=alt.value("width"), text="text:N"
        )
    )
    return alt.layer(*layers)


@dataclass(frozen=True)
class Line:
    """A line of `draw_curves`.

    Attributes:
        name: Text at its right end.
        colour: A name of PALETTE.
        data: `x`, `y`, optionally `low` and `high` (a band), and the fields of the tooltips.
        faint: Whether it is drawn thin and without a name.
        points: Whether its points are marked.
        width: Width of the line in pixels.
        dash: Lengths of its dashes and gaps in pixels.
    """

    name: str
    colour: str
    data: pd.DataFrame
    faint: bool = False
    points: bool = True
    width: float = 2.5
    dash: tuple[float, float] = (1, 0)


def draw_curves(
    lines: Sequence[Line],
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    labels_gap: float,
    marks: Sequence[tuple[float, str]] = (),
    marks_above: bool = False,
    rule: tuple[float, str] | None = None,
    tooltip: Sequence[alt.Tooltip] = (),
) -> Layers:
    """Draw lines with their 95 % bands, named at their right ends.

    Args:
        lines: The lines, those in front last.
        x_axis: `axis` and `scale` of the horizontal encoding.
        y_axis: `axis` and `scale` of the vertical encoding.
        labels_gap: Minimum distance of two names in units of y.
        marks: Vertical dashed lines, as pairs of x and text.
        marks_above: Whether the texts of the marks are at the top, not at the bottom.
        rule: A horizontal dashed line, as a pair of y and text.
        tooltip: Tooltips of the points.
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    layers: list[alt.Chart] = []
    if rule is not None:
        at = alt.Chart(pd.DataFrame({"y": [rule[0]], "text": [rule[1]]})).encode(y=y)
        layers.append(at.mark_rule(strokeDash=[4, 4], color=css_variable("muted")))
        text = at.mark_text(
            align="right", baseline="bottom", dy=-3, dx=-4, color=css_variable("muted")
        )
        layers.append(text.encode(x=alt.value("width"), text="text:N"))
    for i, (place, mark) in enumerate(marks):  # stacked so that neighbours do not overlap
        at = alt.Chart(pd.DataFrame({"x": [place], "text": [mark]})).encode(x=x)
        layers.append(at.mark_rule(color=css_variable("muted"), strokeDash=[2, 3]))
        foot = at.encode(y=alt.value(0 if marks_above else "height"), text="text:N")
        layers += draw_outlined_text(
            foot,
            align="left",
            dx=4,
            dy=14 + 18 * i if marks_above else -4 - 18 * i,
            color=css_variable("muted"),
        )
    for line in lines:
        chart, colour = alt.Chart(line.data).encode(x=x), css_variable(line.colour)
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
                chart.mark_point(
                    filled=True, size=34, opacity=1, color=css_variable(line.colour), clip=True
                )
            )
        target = chart.mark_point(  # invisible, larger than the point: easier to hover over
            filled=True, size=300, opacity=0, color=css_variable(line.colour), clip=True
        )
        layers.append(target.encode(tooltip=[alt.Tooltip("series:N", title=" "), *tooltip]))
    ends = pd.DataFrame(
        [
            {
                "y": line.data["y"].iloc[-1],
                "text": line.name,
                "css_colour": css_variable(f"{line.colour}-text"),
            }
            for line in named
        ]
    )
    # A line may end outside the frame.
    ends["y"] = spread_labels(ends["y"].clip(*y_axis["scale"].domain).tolist(), labels_gap)
    label = alt.Chart(ends).mark_text(align="left", dx=8, fontWeight=600)
    layers.append(
        label.encode(
            x=alt.value("width"), y=y, text="text:N", color=alt.Color("css_colour:N", scale=None)
        )
    )
    return alt.layer(*layers)


def draw_distribution(
    bars: pd.DataFrame,
    behind: pd.DataFrame,
    summary: dict[str, float],
    x_axis: dict[str, Any],
    y_title: str,
) -> Layers:
    """Draw a histogram in front of a second one, with a summary of the first above.

    The summary shows the mean (dot), the middle half (thick line) and the range from the 5th to
    the 95th percentile (thin line).

    Args:
        bars: `low`, `high`, `range` (as text), `share`, `episodes` and `of` (the histogram's name).
        behind: The same for the second histogram; may be empty.
        summary: `mean`, `q05`, `q25`, `q75` and `q95` of the first.
        x_axis: `axis` and `scale` of the horizontal encoding.
        y_title: Title of the vertical axis.
    """
    most = max(float(frame["share"].max()) for frame in (bars, behind) if len(frame))
    x = alt.X("low:Q", **x_axis)
    y = alt.Y(
        "share:Q",
        axis=alt.Axis(format="%", title=y_title, tickCount=5),
        scale=alt.Scale(domain=[0, 1.15 * most], nice=False),  # room for the names
    )
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
                color=css_variable(colour),
                opacity=opacity,
                binSpacing=0,
                stroke=css_variable("surface"),
                strokeWidth=gap,
            )
            layers.append(shape.encode(x=x, x2="high:Q", y=y, y2=alt.Y2(datum=0), tooltip=tooltip))
    strip, above = alt.Chart(pd.DataFrame([summary])), alt.value(-34)
    line: dict[str, Any] = {"color": css_variable("model"), "strokeCap": "round"}
    mean = alt.X("mean:Q", **x_axis)
    layers += [
        strip.mark_rule(strokeWidth=1.5, **line).encode(
            x=alt.X("q05:Q", **x_axis), x2="q95:Q", y=above
        ),
        strip.mark_rule(strokeWidth=6, **line).encode(
            x=alt.X("q25:Q", **x_axis), x2="q75:Q", y=above
        ),
        strip.mark_rule(strokeDash=[3, 3], color=css_variable("text")).encode(
            x=mean, y=above, y2=alt.value("height")
        ),
        strip.mark_point(
            filled=True,
            size=110,
            opacity=1,
            fill=css_variable("model"),
            stroke=css_variable("surface"),
            strokeWidth=1.5,
        ).encode(x=mean, y=above),
    ]
    return alt.layer(
        *layers, *_names([(bars, "model-text"), (behind, "baseline-text")], x, y, x_axis["scale"])
    )


def _names(
    frames: Sequence[tuple[pd.DataFrame, str]], x: alt.X, y: alt.Y, scale: alt.Scale
) -> list[alt.Chart]:
    """Return each histogram's name above its highest bar.

    If these bars are close together, the names are stacked above the highest of all.
    """
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
        layers += draw_outlined_text(
            place, align=side, dy=-4 - 15 * i * together, fontWeight=600, color=css_variable(colour)
        )
    return layers


def draw_overlay(
    frame: pd.DataFrame,
    ends: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Draw many lines; the line under the pointer is highlighted.

    Args:
        frame: `name`, `x`, `y`, `css_colour`, `faint` (thin unless under the pointer) and
            the fields of the tooltips.
        ends: `y`, `name` and `css_colour` of the names at the right ends, at
            positions that do not overlap.
        x_axis: `axis` and `scale` of the horizontal encoding.
        y_axis: `axis` and `scale` of the vertical encoding.
        tooltip: Tooltips of the points.
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    hovered = alt.selection_point(
        name="hovered",
        on="pointerover",
        clear="pointerout",
        fields=["name"],
        nearest=False,
        empty=False,
    )
    base = alt.Chart(frame).encode(
        x=x, y=y, detail="name:N", color=alt.Color("css_colour:N", scale=None)
    )
    width = (
        alt.when(hovered)
        .then(alt.value(4))
        .when("datum.faint")
        .then(alt.value(1))
        .otherwise(alt.value(2.25))
    )
    opacity = (
        alt.when(hovered)
        .then(alt.value(1))
        .when("datum.faint")
        .then(alt.value(0.35))
        .otherwise(alt.value(0.9))
    )
    lines = base.mark_line(clip=True).encode(strokeWidth=width, opacity=opacity)
    layers: list[Any] = [lines]
    single = frame[frame.groupby("name")["x"].transform("size") == 1]
    if len(single):  # a line through one point is invisible
        points = alt.Chart(single).mark_point(filled=True, size=60, opacity=1, clip=True)
        layers.append(points.encode(x=x, y=y, color=alt.Color("css_colour:N", scale=None)))
    target = (
        base.mark_point(filled=True, size=160, clip=True)
        .encode(opacity=alt.value(0), tooltip=list(tooltip))
        .add_params(hovered)
    )
    names = alt.Chart(ends).mark_text(align="left", dx=8, fontWeight=600, limit=170)
    named = names.encode(
        x=alt.value("width"), y=y, text="name:N", color=alt.Color("css_colour:N", scale=None)
    )
    return alt.layer(*layers, target, named)


def draw_scatter(
    points: pd.DataFrame,
    front: pd.DataFrame,
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    tooltip: Sequence[alt.Tooltip],
) -> Layers:
    """Draw points with vertical intervals and their Pareto front.

    Args:
        points: `name`, `x`, `y`, `low`, `high`, `css_colour` and `css_text_colour` and `label`
            (text next to the point; may be empty).
        front: `x` and `y` of the front, sorted by x.
        x_axis: `axis` and `scale` of the horizontal encoding.
        y_axis: `axis` and `scale` of the vertical encoding.
        tooltip: Tooltips of the points.
    """
    x, y = alt.X("x:Q", **x_axis), alt.Y("y:Q", **y_axis)
    base = alt.Chart(points).encode(x=x, color=alt.Color("css_colour:N", scale=None))
    line = (
        alt.Chart(front)
        .mark_line(
            interpolate="step-after", strokeDash=[4, 4], color=css_variable("muted"), clip=True
        )
        .encode(x=x, y=y)
    )
    interval = base.mark_rule(strokeWidth=3, opacity=0.45, clip=True).encode(
        y=alt.Y("low:Q", **y_axis), y2="high:Q"
    )
    dots = base.mark_point(
        filled=True, size=95, opacity=1, stroke=css_variable("surface"), strokeWidth=1.5
    ).encode(y=y, fill=alt.Fill("css_colour:N", scale=None), tooltip=list(tooltip))
    return alt.layer(
        line,
        interval,
        dots,
        *draw_outlined_text(
            base.encode(y=y, text="label:N", color=alt.Color("css_text_colour:N", scale=None)),
            align="left",
            dx=9,
            dy=4,
            baseline="middle",
            limit=200,
        ),
    )
