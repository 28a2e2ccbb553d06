"""How the error changes with shots, ways or classes to train on: experiments that differ in one of these alone,
and a power law through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from episodic.analysis import power_law
from episodic.analysis.power_law import Fit
from tasks.reports.comparison.groups import SEED, Configuration, Protocol, settings
from tasks.reports.comparison.sections import SURE, p_value
from tasks.reports.kit import charts, maps, wording
from tasks.reports.kit.section import Figure, Section, Table

KEYS = {"train.classes": "classes to train on", "episodes.shots": "shots", "episodes.ways": "ways"}
"""Params whose effect is looked at, and what they count."""

OF_EPISODES = ("episodes.shots", "episodes.ways")
"""Those that change the test episodes as well."""


@dataclass(frozen=True)
class Series:
    """Configurations that differ in `key` alone: `n`, `error`, `se`, `low`, `high`, `seeds`, `episodes`, in the order of n.

    training: whether the test episodes' number is that of training as well
    """

    key: str
    score: str
    points: pd.DataFrame
    training: bool


def sections(protocols: Sequence[Protocol]) -> list[Section]:
    """One for each of KEYS that has enough points."""
    return [_section(found) for key in KEYS if (found := series(protocols, key)) is not None]


def series(protocols: Sequence[Protocol], key: str) -> Series | None:
    """The largest set of configurations that differ in `key` alone, of whatever protocols; None where it has fewer than a law needs."""
    alike: dict[str, list[tuple[Protocol, Configuration]]] = {}
    for protocol in protocols:
        for configuration in protocol.configurations:
            rest = {k: v for k, v in settings(configuration.first).items() if k not in (key, SEED)}
            where = protocol.score, configuration.first.mode, configuration.first.meta["dataset"]
            alike.setdefault(
                repr((where, sorted((k, repr(v)) for k, v in rest.items()))), []
            ).append((protocol, configuration))
    made = [(_points(members, key), members[0][1]) for members in alike.values()]
    points, one = max(
        made, key=lambda found: found[0]["n"].nunique(), default=(pd.DataFrame({"n": []}), None)
    )
    if one is None or points["n"].nunique() < power_law.LEAST:
        return None
    training = (
        key in OF_EPISODES and settings(one.first).get(key.replace("episodes.", "train.")) is None
    )
    return Series(key, str(points["score"].iloc[0]), points, training)


def _points(members: Sequence[tuple[Protocol, Configuration]], key: str) -> pd.DataFrame:
    rows = []
    for protocol, c in members:
        low, high = c.score.low, c.score.high
        mean, low, high = (
            (1 - c.score.mean, 1 - high, 1 - low) if protocol.higher else (c.score.mean, low, high)
        )
        count = (
            c.first.config.get("classes")
            if key == "train.classes"
            else c.first.meta[key.rpartition(".")[2]]
        )
        rows.append(
            {
                "n": count,
                "error": mean,
                "se": c.score.se,
                "low": max(low, 0.0),
                "high": high,
                "seeds": len(c.experiments),
                "episodes": c.score.episodes,
                "score": protocol.score,
            }
        )
    return (
        pd.DataFrame(rows)
        .dropna(subset=["n"])
        .sort_values("n", kind="stable")
        .drop_duplicates("n", ignore_index=True)
    )


def _section(found: Series) -> Section:
    points, what, accuracy = found.points, KEYS[found.key], found.score == "accuracy"
    law = power_law.fit(points["n"].to_numpy(), points["error"].to_numpy(), points["se"].to_numpy())
    shown = wording.percent if accuracy else wording.number
    first, last = points.iloc[0], points.iloc[-1]
    ends = f"{shown(first['error'])} with {int(first['n']):,} and {shown(last['error'])} with {int(last['n']):,}"
    sentence = f"The error is {ends} {what}{_law(law)}."
    notes = [
        "Dots: means over seeds and test episodes with 95 % intervals; line: the fitted law error = a n^-b "
        "with its 95 % band; both axes are logarithmic."
    ]
    if law is not None and law.p < SURE:
        notes.append(
            f"The points miss the law by more than chance (chi-square {law.misfit:.1f} a degree of freedom, p {p_value(law.p)}): the "
            "exponent is a summary of this range, not a law to go beyond it, and its interval, widened by the root of that, is too "
            "narrow where points are few."
        )
    if found.key in OF_EPISODES:
        if found.training:
            notes.append(
                f"The {what} of training change with those of the test episodes (train.{what} is null)."
            )
        notes.append(
            f"Each number of {what} has test episodes of its own, so that these points are not paired"
            + (
                "; with more ways the task itself is harder, and chance lower (1 / ways)."
                if found.key == "episodes.ways"
                else "."
            )
        )
    else:
        notes.append(
            "Which classes are left out differs by seed and is part of the interval where there are seeds; all points share their test "
            "episodes, which the fit does not make use of."
        )
    cells = [
        [
            f"{int(p['n']):,}",
            f"{shown(p['error'])} ({shown(p['low'])} to {shown(p['high'])})",
            str(int(p["seeds"])),
            f"{int(p['episodes']):,}",
        ]
        for p in points.to_dict("records")
    ]
    table = Table(
        f"Error by {what}",
        [what, "error, 95 % interval", "seeds", "test episodes"],
        cells,
        frozenset({0, 1, 2, 3}),
    )
    name = f"growth-{found.key.rpartition('.')[2]}"
    told = f"Error against {what} on logarithmic axes, {wording.count(len(points), 'point')} with 95 % intervals."
    picture = Figure(
        name, charts.page_spec(_chart(points, law, what, accuracy), 280), f"{told} {sentence}"
    )
    return Section(name, f"How the error changes: {what}", sentence, [picture], notes, [table])


def _law(law: Fit | None) -> str:
    if law is None:
        return "; too few points have an error above 0 for a law"
    if law.b_low <= 0 <= law.b_high:
        return f"; no trend beyond chance (exponent {_signed(-law.b)}, 95 % CI {_signed(-law.b_high)} to {_signed(-law.b_low)})"
    way = "falls" if law.b > 0 else "grows"
    return f": it {way} as n to the power of {_signed(-law.b)} (95 % CI {_signed(-law.b_high)} to {_signed(-law.b_low)})"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _chart(points: pd.DataFrame, law: Fit | None, what: str, accuracy: bool) -> charts.Layers:
    low, high = float(points["n"].min()), float(points["n"].max())
    line = pd.DataFrame({"x": np.geomspace(low, high, 60)})
    if law is not None:
        line["y"], line["low"], line["high"] = law.at(line["x"].to_numpy())
    shown = wording.percent if accuracy else wording.number
    said = [
        f"{shown(p['error'])} ({shown(p['low'])} to {shown(p['high'])})"
        for p in points.to_dict("records")
    ]
    dots = points.assign(x=points["n"], y=points["error"], said=said)
    least = float(points.loc[points["error"] > 0, "error"].min())
    dots["low"] = dots["low"].clip(lower=least / 3)
    ends = pd.concat([dots["low"], dots["high"]])
    x_axis = {
        "axis": alt.Axis(title=what, format=",d", values=[int(n) for n in points["n"]]),
        "scale": alt.Scale(type="log", domain=[low / 1.1, high * 1.1], nice=False),
    }
    y_axis = {
        "axis": alt.Axis(
            title="error",
            format=".1%" if accuracy and least < 0.02 else ".0%" if accuracy else "~r",
            tickCount=5,
        ),
        "scale": alt.Scale(
            type="log", domain=[float(ends.min()) * 0.9, float(ends.max()) * 1.1], nice=False
        ),
    }
    tooltip = [
        alt.Tooltip("n:Q", title=what, format=",d"),
        alt.Tooltip("said:N", title="error"),
        alt.Tooltip("seeds:Q"),
    ]
    return maps.law(dots, line, x_axis, y_axis, tooltip)
