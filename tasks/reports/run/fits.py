"""Regression: what the model draws through a few support points, before and after adaptation."""

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
    "step_0": ("before", "baseline", [2, 3]),
    "step_1": ("1 step", "early", [6, 3]),
    "step_10": ("10 steps", "model", [1, 0]),
}
"""Columns of fits.parquet: words, colour, dashes."""


@dataclass(frozen=True)
class Fit:
    """One episode's curves; error: of the headline, in words."""

    episode: int
    place: str
    error: str
    figure: Figure


def fits(results: Results) -> list[Fit]:
    """The episodes of fits.parquet, from typical to worst by the headline's error."""
    errors = results.headline.set_index("episode")["mse"]
    order = sorted(results.fits["episode"].unique(), key=lambda e: (errors[e], e))
    rank = errors.rank(pct=True)
    result = []
    for i, episode in enumerate(order):
        place = (
            "the worst"
            if errors[episode] == errors.max()
            else "typical"
            if rank[episode] <= 0.6
            else f"{wording.percent(1 - rank[episode], 0)} are worse"
        )
        error = wording.number(float(errors[episode]))
        told = f"Episode {episode}: sine wave, support points and the model's curves."
        told += f" Error {error} after {wording.count(results.steps, 'step')}."
        figure = Figure(f"fit-{i + 1}", _chart(results, int(episode)), told)
        result.append(Fit(int(episode), place, error, figure))
    return result


def _chart(results: Results, episode: int) -> dict[str, Any]:
    curve, points = (
        frame[frame["episode"] == episode].sort_values("x")
        for frame in (results.fits, results.support)
    )
    known = [column for column in LINES if column in curve]
    reach = max(1.0, float(np.abs(pd.concat([curve["truth"], points["y"]])).max())) * 1.6
    x = alt.X("x:Q", axis=alt.Axis(title="x", tickCount=5), scale=alt.Scale(nice=False))
    y = alt.Y(
        "y:Q",
        axis=alt.Axis(title="y", tickCount=5),
        scale=alt.Scale(domain=[-reach, reach], nice=False),
    )
    layers = []
    for column, colour, dash, width in [
        ("truth", "ink", [1, 0], 1.5),
        *((c, LINES[c][1], LINES[c][2], 2.5) for c in known),
    ]:
        name = "truth" if column == "truth" else LINES[column][0]
        data = pd.DataFrame({"x": curve["x"].round(4), "y": curve[column].round(4), "of": name})
        tooltip = [
            alt.Tooltip("of:N", title=" "),
            alt.Tooltip("x:Q", format=".2f"),
            alt.Tooltip("y:Q", format=".3f"),
        ]
        layers.append(
            alt.Chart(data)
            .mark_line(color=charts.var(colour), strokeDash=dash, strokeWidth=width, clip=True)
            .encode(x=x, y=y, tooltip=tooltip)
        )
    dots = alt.Chart(points[["x", "y"]].round(4)).mark_point(
        filled=True,
        size=60,
        opacity=1,
        fill=charts.var("ink"),
        stroke=charts.var("paper"),
        strokeWidth=1.5,
    )
    layers.append(
        dots.encode(
            x=x, y=y, tooltip=[alt.Tooltip("x:Q", format=".2f"), alt.Tooltip("y:Q", format=".3f")]
        )
    )
    return charts.page_spec(alt.layer(*layers), 200)
