"""Learning and adaptation curves of all configurations in one chart each."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from tasks.reports.comparison import sentences
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.comparison.style import build_zoomed_score_axis, choose_colour
from tasks.reports.kit import charts, wording
from tasks.reports.kit.section import Figure, ReportSection, build_figure

MAX_STEPS = 10
"""Maximum number of inner steps drawn."""


@dataclass(frozen=True)
class Curve:
    """The mean score over the seeds of a configuration: `x` and `y`."""

    configuration: Configuration
    data: pd.DataFrame


def build_learning_section(protocol: Protocol, suffix: str) -> ReportSection:
    """Build the section with the validation scores during training."""
    curves = [
        _average(c, [e.validation for e in c.experiments], "iteration", protocol.score)
        for c in protocol.configurations
    ]
    name = f"learning{suffix}"
    if all(len(curve.data) == 1 and curve.data["x"].iloc[0] == 0 for curve in curves):
        return ReportSection(name, "Learning curves", wording.NOTHING_TO_TRAIN)
    choose = max if protocol.is_accuracy else min
    best = choose(curves, key=lambda curve: float(curve.data["y"].iloc[-1]))
    first, iteration, goal = _find_fastest(protocol, curves)
    sentence = sentences.describe_learning(
        protocol, best.configuration.name, first, iteration, goal
    )
    figure = _draw_curves(protocol, name, curves, "iteration", ",d", sentence)
    note = (
        f"Validation {wording.name_score(protocol.score)}, mean over seeds. Hover over a line to "
        "bring it to the front."
    )
    return ReportSection(name, "Learning curves", sentence, [figure], [note])


def _average(
    configuration: Configuration, tables: list[pd.DataFrame], column: str, score: str
) -> Curve:
    scores = pd.concat([table[[column, score]] for table in tables])
    mean = scores.groupby(column)[score].mean().reset_index()
    return Curve(configuration, pd.DataFrame({"x": mean[column], "y": mean[score]}))


def _find_fastest(protocol: Protocol, curves: list[Curve]) -> tuple[str, int, float]:
    """Find the configuration that is first to come close to the best score.

    Close means within one percentage point of accuracy, or 5 % of an error.

    Returns:
        Its name, the iteration at which it comes close, and the score that counts as close.
    """
    if protocol.is_accuracy:
        goal = max(curve.data["y"].max() for curve in curves) - 0.01
    else:
        goal = min(curve.data["y"].min() for curve in curves) * 1.05
    reached = []
    for curve in curves:
        values = curve.data["y"]
        close = curve.data[values >= goal if protocol.is_accuracy else values <= goal]
        if len(close):
            reached.append((int(close["x"].iloc[0]), curve.configuration.name))
    iteration, name = min(reached)
    return name, iteration, goal


def build_adaptation_section(protocol: Protocol, suffix: str) -> ReportSection | None:
    """Build the section with the scores by inner step; None if no configuration takes any."""
    curves = []
    for c in protocol.configurations:
        tables = [e.curve[e.curve["mode"] == e.mode] for e in c.experiments]
        tables = [table[table["step"] <= MAX_STEPS] for table in tables]
        curve = _average(c, tables, "step", protocol.score)
        if len(curve.data) > 1:
            curves.append(curve)
    if not curves:
        return None
    gain, best = max(
        (
            protocol.sign * float(curve.data["y"].iloc[1] - curve.data["y"].iloc[0]),
            curve.configuration.name,
        )
        for curve in curves
    )
    sentence = sentences.describe_adaptation(protocol, best, gain)
    adapting = {curve.configuration.name for curve in curves}
    others = [c.name for c in protocol.configurations if c.name not in adapting]
    notes = [sentences.list_without_steps(others)] if others else []
    name = f"adaptation{suffix}"
    figure = _draw_curves(protocol, name, curves, "inner steps", "d", sentence)
    return ReportSection(name, "Adaptation curves", sentence, [figure], notes)


def _draw_curves(
    protocol: Protocol, name: str, curves: list[Curve], x_title: str, x_format: str, sentence: str
) -> Figure:
    """Draw the best configurations in colour, with names, and the others faint."""
    frames, ends = [], []
    for curve in curves:
        colour = choose_colour(protocol, curve.configuration)
        title, values = curve.configuration.name, curve.data["y"]
        frames.append(
            curve.data.assign(
                name=title,
                css_colour=charts.css_variable(colour),
                faint=colour == "baseline",
                score=[wording.choose_formatter(protocol.score)(value) for value in values],
            )
        )
        if colour != "baseline":
            text_colour = charts.css_variable(f"{colour}-text")
            ends.append({"y": float(values.iloc[-1]), "name": title, "css_colour": text_colour})
    lines = pd.concat(frames, ignore_index=True)
    y_axis = build_zoomed_score_axis(protocol, float(lines["y"].min()), float(lines["y"].max()))
    low, high = y_axis["scale"].domain
    labels = pd.DataFrame(ends or [{"y": low, "name": "", "css_colour": ""}])
    labels["y"] = charts.spread_labels(labels["y"].clip(low, high).tolist(), 0.075 * (high - low))
    x_axis = {
        "axis": alt.Axis(title=x_title, format=x_format, tickCount=5),
        "scale": alt.Scale(domain=[float(lines["x"].min()), float(lines["x"].max())], nice=False),
    }
    score = wording.name_score(protocol.score)
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("x:Q", title=x_title, format=x_format),
        alt.Tooltip("score:N", title=score),
    ]
    chart = charts.draw_overlay(lines, labels, x_axis, y_axis, tooltip)
    configurations = wording.format_count(len(curves), "configuration")
    description = f"{score.capitalize()} of {configurations} by {x_title}."
    return build_figure(name, chart, description, sentence, 300)
