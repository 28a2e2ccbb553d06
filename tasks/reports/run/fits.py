"""Fitted curves of a one-dimensional regression before and after adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Figure

LINES = {
    "step_0": ("before adaptation", "baseline", [2, 3]),
    "step_1": ("1 step", "early", [6, 3]),
    "step_10": ("10 steps", "model", [1, 0]),
}
"""Columns of fits.parquet: name, colour and dashes of their lines."""


@dataclass(frozen=True)
class FittedCurve:
    """The curves of an episode.

    Attributes:
        episode: Its index.
        rank: Its rank among the episodes, as text.
        error: Its mean squared error in the headline score, as text.
        figure: The curves.
    """

    episode: int
    rank: str
    error: str
    figure: Figure


def draw_fits(results: Results) -> list[FittedCurve]:
    """Draw the episodes of fits.parquet, from typical to worst."""
    errors = results.headline_episodes.set_index("episode")["mse"]
    quantiles = errors.rank(pct=True)
    episodes = sorted(results.fits["episode"].unique(), key=lambda e: (errors[e], e))
    steps = wording.format_count(results.steps, "step")
    fits = []
    for number, episode in enumerate(episodes, start=1):
        rank = f"{wording.format_percent(1 - quantiles[episode], 0)} are worse"
        if errors[episode] == errors.max():
            rank = "worst"
        elif quantiles[episode] <= 0.6:
            rank = "typical"
        error = wording.format_number(float(errors[episode]))
        description = (
            f"Episode {episode}: sine wave, support points and the model's curves. "
            f"Error {error} after {steps}."
        )
        figure = Figure(f"fit-{number}", _draw_fit(results, int(episode)), description)
        fits.append(FittedCurve(int(episode), rank, error, figure))
    return fits


def _draw_fit(results: Results, episode: int) -> dict[str, Any]:
    curve, support = (
        frame[frame["episode"] == episode].sort_values("x")
        for frame in (results.fits, results.support)
    )
    reach = max(1.0, float(np.abs(pd.concat([curve["truth"], support["y"]])).max())) * 1.6
    x = alt.X("x:Q", axis=alt.Axis(title="x", tickCount=5), scale=alt.Scale(nice=False))
    y = alt.Y(
        "y:Q",
        axis=alt.Axis(title="y", tickCount=5),
        scale=alt.Scale(domain=[-reach, reach], nice=False),
    )
    values = [alt.Tooltip("x:Q", format=".2f"), alt.Tooltip("y:Q", format=".3f")]
    layers = []
    for column, (name, colour, dash), width in [
        ("truth", ("truth", "text", [1, 0]), 1.5),
        *((column, style, 2.5) for column, style in LINES.items() if column in curve),
    ]:
        data = pd.DataFrame({"x": curve["x"].round(4), "y": curve[column].round(4), "of": name})
        line = alt.Chart(data).mark_line(
            color=charts.css_variable(colour), strokeDash=dash, strokeWidth=width, clip=True
        )
        tooltip = [alt.Tooltip("of:N", title=" "), *values]
        layers.append(line.encode(x=x, y=y, tooltip=tooltip))
    points = alt.Chart(support[["x", "y"]].round(4)).mark_point(
        filled=True,
        size=60,
        opacity=1,
        fill=charts.css_variable("text"),
        stroke=charts.css_variable("surface"),
        strokeWidth=1.5,
    )
    layers.append(points.encode(x=x, y=y, tooltip=values))
    return charts.build_page_spec(alt.layer(*layers), 200)
