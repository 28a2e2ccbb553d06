"""The score compared with the cost of training."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from tasks.reports.comparison import sentences
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.comparison.style import build_zoomed_score_axis, choose_colour, format_interval
from tasks.reports.kit import charts, wording
from tasks.reports.kit.section import Figure, ReportSection

MAX_NAMES = 12
"""Maximum number of configurations that are all named; of more, only the Pareto front is."""


@dataclass(frozen=True)
class CostPoint:
    """The cost and the score of a configuration."""

    name: str
    cost: float
    score: float


def build_cost_section(protocol: Protocol, suffix: str) -> ReportSection:
    """Build the section with the score by training time and by peak memory."""
    times = {id(c): c.seconds for c in protocol.configurations}
    memory = {id(c): c.memory / 1e9 for c in protocol.configurations}
    by_time, fastest = _draw_cost(protocol, f"cost-time{suffix}", "training time, seconds", times)
    by_memory, _ = _draw_cost(protocol, f"cost-memory{suffix}", "peak memory, GB", memory)
    sentence = sentences.describe_cost(protocol, fastest)
    figures, notes = [by_time, by_memory], [sentences.COST_NOTE]
    return ReportSection(f"cost{suffix}", "Training cost", sentence, figures, notes)


def _draw_cost(
    protocol: Protocol, name: str, title: str, costs: dict[int, float]
) -> tuple[Figure, list[str]]:
    """Draw the score by cost; also return the names on the Pareto front."""
    members = protocol.configurations
    points = [CostPoint(c.name, costs[id(c)], c.score.mean) for c in members]
    front = find_pareto_front(points, protocol.is_accuracy)
    frame = pd.DataFrame(
        [
            {
                "name": point.name,
                "x": point.cost,
                "y": point.score,
                "low": c.score.low,
                "high": c.score.high,
                "css_colour": charts.css_variable(choose_colour(protocol, c)),
                "css_text_colour": charts.css_variable(f"{choose_colour(protocol, c)}-text"),
                "score": format_interval(protocol, c.score),
                "cost": _format_cost(c, title),
                "label": point.name if point in front or len(points) <= MAX_NAMES else "",
            }
            for point, c in zip(points, members, strict=True)
        ]
    )
    x_axis = {
        "axis": alt.Axis(title=title, format="~r", tickCount=5),
        "scale": alt.Scale(domain=[0.0, float(frame["x"].max()) * 1.25], nice=False),
    }
    y_axis = build_zoomed_score_axis(
        protocol, float(frame["low"].min()), float(frame["high"].max())
    )
    score = wording.name_score(protocol.score)
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("score:N", title=score),
        alt.Tooltip("cost:N", title=title.partition(",")[0]),
    ]
    line = pd.DataFrame([{"x": point.cost, "y": point.score} for point in front])
    chart = charts.draw_scatter(frame, line, x_axis, y_axis, tooltip)
    names = [point.name for point in front]
    description = f"{score.capitalize()} by {title}. Pareto front: {wording.join_words(names)}."
    return Figure(name, charts.build_page_spec(chart, 280), description), names


def _format_cost(configuration: Configuration, title: str) -> str:
    if "memory" in title:
        return f"{configuration.memory / 1e9:.2f} GB"
    return wording.format_duration(configuration.seconds)


def find_pareto_front(points: list[CostPoint], higher_is_better: bool) -> list[CostPoint]:
    """Return the points that no other point beats in both cost and score, the cheapest first."""
    sign = 1 if higher_is_better else -1
    front: list[CostPoint] = []
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.score)):
        if not front or sign * point.score > sign * front[-1].score:
            front.append(point)
    return front
