"""Scaling of the error with shots, ways or training classes, with a power-law fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from episodic.analysis import power_law
from episodic.analysis.power_law import PowerLaw
from tasks.reports.comparison import sentences
from tasks.reports.comparison.naming import SEED, build_settings_key, select_effective_settings
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.kit import charts, maps, wording
from tasks.reports.kit.section import ReportSection, Table, build_figure

QUANTITIES = {
    "train.classes": "training classes",
    "episodes.shots": "shots per class",
    "episodes.ways": "ways",
}
"""Settings whose effect is examined, and the quantity that each one counts."""


@dataclass(frozen=True)
class Series:
    """Configurations that differ only in one setting.

    Attributes:
        key: The setting.
        score: `accuracy` or `mse`.
        points: `n` (the setting), `error`, `se`, `low`, `high`, `seeds` and `episodes`, sorted
            by n.
        training: Whether the number in training varies along with that of the test episodes.
    """

    key: str
    score: str
    points: pd.DataFrame
    training: bool


def build_scaling_sections(protocols: Sequence[Protocol]) -> list[ReportSection]:
    """Build a section for each of QUANTITIES that has enough points."""
    series = [find_series(protocols, key) for key in QUANTITIES]
    return [_build_section(points) for points in series if points is not None]


def find_series(protocols: Sequence[Protocol], key: str) -> Series | None:
    """Find the largest set of configurations that differ only in one setting.

    They may follow several protocols. Returns None if there are too few points for a power law.
    """
    members: dict[tuple, list[tuple[Protocol, Configuration]]] = {}
    for protocol in protocols:
        for configuration in protocol.configurations:
            experiment = configuration.first
            others = build_settings_key(select_effective_settings(experiment), [key, SEED])
            group = protocol.score, experiment.mode, experiment.meta["dataset"], others
            members.setdefault(group, []).append((protocol, configuration))
    candidates = [(_tabulate(group, key), group[0]) for group in members.values()]
    if not candidates:
        return None
    points, (protocol, configuration) = max(candidates, key=lambda c: c[0]["n"].nunique())
    if points["n"].nunique() < power_law.MIN_POINTS:
        return None
    training = False
    if key.startswith("episodes."):
        in_training = select_effective_settings(configuration.first).get(
            key.replace("episodes.", "train.")
        )
        training = in_training is None
    return Series(key, protocol.score, points, training)


def _tabulate(members: Sequence[tuple[Protocol, Configuration]], key: str) -> pd.DataFrame:
    rows = []
    for protocol, c in members:
        error, low, high = c.score.mean, c.score.low, c.score.high
        if protocol.is_accuracy:
            error, low, high = 1 - error, 1 - high, 1 - low
        meta, config = c.first.meta, c.first.config
        size = key.rpartition(".")[2]
        number = meta[size] if key.startswith("episodes.") else config.get("classes")
        if key.startswith("episodes.") and isinstance(meta.get("varied", meta)[size], list):
            low, high = meta["varied"][size]
            number = low if low == high else None  # drawn per episode
        rows.append(
            {
                "n": number,
                "error": error,
                "se": c.score.se,
                "low": max(low, 0.0),
                "high": high,
                "seeds": len(c.experiments),
                "episodes": c.score.episodes,
            }
        )
    table = pd.DataFrame(rows).dropna(subset=["n"]).sort_values("n", kind="stable")
    return table.drop_duplicates("n", ignore_index=True)


def _build_section(series: Series) -> ReportSection:
    points, name = series.points, QUANTITIES[series.key]
    law = power_law.fit_power_law(
        points["n"].to_numpy(), points["error"].to_numpy(), points["se"].to_numpy()
    )
    first, last = (
        (int(row["n"]), float(row["error"])) for row in points.iloc[[0, -1]].to_dict("records")
    )
    scale = sentences.describe_scaling(series.score, name, first, last)
    sentence = f"{scale} {sentences.describe_power_law(law)}"
    rows = [
        [f"{int(row['n']):,}", error, str(int(row["seeds"])), f"{int(row['episodes']):,}"]
        for row, error in zip(points.to_dict("records"), _format_errors(series), strict=True)
    ]
    head = [name, "error, 95 % interval", "seeds", "test episodes"]
    table = Table(f"Error by number of {name}", head, rows, frozenset({0, 1, 2, 3}))
    anchor = f"scaling-{series.key.rpartition('.')[2]}"
    description = (
        f"Error by number of {name} on logarithmic axes, "
        f"{wording.format_count(len(points), 'point')} with 95 % intervals."
    )
    figure = build_figure(anchor, _draw_series(series, law), description, sentence, 280)
    notes = sentences.list_scaling_notes(law, series.key, name, series.training)
    return ReportSection(anchor, f"Scaling: {name}", sentence, [figure], notes, [table])


def _format_errors(series: Series) -> list[str]:
    show = wording.choose_formatter(series.score)
    columns = series.points[["error", "low", "high"]]
    return [f"{show(e)} ({show(low)} to {show(high)})" for e, low, high in columns.to_numpy()]


def _draw_series(series: Series, law: PowerLaw | None) -> charts.Layers:
    points, name = series.points, QUANTITIES[series.key]
    low, high = float(points["n"].min()), float(points["n"].max())
    line = pd.DataFrame({"x": np.geomspace(low, high, 60)})
    if law is not None:
        line["y"], line["low"], line["high"] = law.at(line["x"].to_numpy())
    points = points.assign(x=points["n"], y=points["error"], text=_format_errors(series))
    least = float(points.loc[points["error"] > 0, "error"].min())
    points["low"] = points["low"].clip(lower=least / 3)
    ends = pd.concat([points["low"], points["high"]])
    x_axis = {
        "axis": alt.Axis(title=name, format=",d", values=[int(n) for n in points["n"]]),
        "scale": alt.Scale(type="log", domain=[low / 1.1, high * 1.1], nice=False),
    }
    form = "~r" if series.score == "mse" else ".1%" if least < 0.02 else ".0%"
    y_axis = {
        "axis": alt.Axis(title="error", format=form, tickCount=5),
        "scale": alt.Scale(
            type="log", domain=[float(ends.min()) * 0.9, float(ends.max()) * 1.1], nice=False
        ),
    }
    tooltip = [
        alt.Tooltip("n:Q", title=name, format=",d"),
        alt.Tooltip("text:N", title="error"),
        alt.Tooltip("seeds:Q"),
    ]
    return maps.draw_power_law(points, line, x_axis, y_axis, tooltip)
