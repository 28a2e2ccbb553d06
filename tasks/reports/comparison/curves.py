"""Learning and adaptation curves of all configurations in one chart each."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from tasks.reports.comparison import sentences
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.comparison.style import configuration_colour, score_axis
from tasks.reports.kit import charts, wording
from tasks.reports.kit.section import Figure, Section, build_figure

MAX_STEPS = 10
"""Inner steps drawn at most."""


@dataclass(frozen=True)
class Curve:
    """The mean score over the seeds of a configuration: `x` and `y`."""

    configuration: Configuration
    data: pd.DataFrame


def learning_section(protocol: Protocol, suffix: str) -> Section:
    """Build the section with the validation scores during training."""
    curves = [
        _average(c, [e.validation for e in c.experiments], "iteration", protocol.score)
        for c in protocol.configurations
    ]
    choose = max if protocol.is_accuracy else min
    best = choose(curves, key=lambda curve: float(curve.data["y"].iloc[-1]))
    first, iteration, goal = _find_fastest(protocol, curves)
    sentence = sentences.learning(protocol, best.configuration.name, first, iteration, goal)
    name = f"learning{suffix}"
    figure = _draw_curves(protocol, name, curves, "iteration", ",d", sentence)
    note = (
        f"Validation {wording.score_name(protocol.score)}, mean over seeds. Hover over a line to "
        "bring it to the front."
    )
    return Section(name, "Learning curves", sentence, [figure], [note])


def _average(
    configuration: Configuration, tables: list[pd.DataFrame], column: str, score: str
) -> Curve:
    scores = pd.concat([table[[column, score]] for table in tables])
    mean = scores.groupby(column)[score].mean().reset_index()
    return Curve(configuration, pd.DataFrame({"x": mean[column], "y": mean[score]}))


def _find_fastest(protocol: Protocol, curves: list[Curve]) -> tuple[str, int, float]:
    """Return which configuration first comes close to the best score, when, and the goal.

    Close means within a point of accuracy or 5 % of an error.
    """
    if protocol.is_accuracy:
        goal = max(curve.data["y"].max() for curve in curves) - 0.01
    else:
        goal = min(curve.data["y"].min() for curve in curves) * 1.05
    reached = []
    for curve in curves:
        values = curve.data["y"]
        there = curve.data[values >= goal if protocol.is_accuracy else values <= goal]
        if len(there):
            reached.append((int(there["x"].iloc[0]), curve.configuration.name))
    iteration, name = min(reached)
    return name, iteration, goal


def adaptation_section(protocol: Protocol, suffix: str) -> Section | None:
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
    sentence = sentences.adaptation(protocol, best, gain)
    adapting = {curve.configuration.name for curve in curves}
    others = [c.name for c in protocol.configurations if c.name not in adapting]
    notes = [sentences.without_steps(others)] if others else []
    name = f"adaptation{suffix}"
    figure = _draw_curves(protocol, name, curves, "inner steps", "d", sentence)
    return Section(name, "Adaptation curves", sentence, [figure], notes)


def _draw_curves(
    protocol: Protocol, name: str, curves: list[Curve], x_title: str, x_format: str, sentence: str
) -> Figure:
    """Draw the best configurations in colour, with names, and the others faint."""
    frames, ends = [], []
    for curve in curves:
        colour = configuration_colour(protocol, curve.configuration)
        title, values = curve.configuration.name, curve.data["y"]
        frames.append(
            curve.data.assign(
                name=title,
                ink=charts.var(colour),
                faint=colour == "baseline",
                score=[wording.formatter(protocol.score)(value) for value in values],
            )
        )
        if colour != "baseline":
            ink = charts.var(f"{colour}-text")
            ends.append({"y": float(values.iloc[-1]), "name": title, "ink": ink})
    lines = pd.concat(frames, ignore_index=True)
    y_axis = score_axis(protocol, float(lines["y"].min()), float(lines["y"].max()))
    low, high = y_axis["scale"].domain
    labels = pd.DataFrame(ends or [{"y": low, "name": "", "ink": ""}])
    labels["y"] = charts.spread(labels["y"].clip(low, high).tolist(), 0.075 * (high - low))
    x_axis = {
        "axis": alt.Axis(title=x_title, format=x_format, tickCount=5),
        "scale": alt.Scale(domain=[float(lines["x"].min()), float(lines["x"].max())], nice=False),
    }
    score = wording.score_name(protocol.score)
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("x:Q", title=x_title, format=x_format),
        alt.Tooltip("score:N", title=score),
    ]
    chart = charts.overlay(lines, labels, x_axis, y_axis, tooltip)
    configurations = wording.count(len(curves), "configuration")
    description = f"{score.capitalize()} of {configurations} by {x_title}."
    return build_figure(name, chart, description, sentence, 300)
