"""The comparison's sections: a sentence, the picture that it is about, and the numbers to look up."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from episodic.analysis.comparison import Estimate
from tasks.reports.comparison.groups import Configuration, Pair, Protocol
from tasks.reports.kit import charts, wording
from tasks.reports.kit.section import Figure, Section, Table

SERIES = ("model", "wrong", "other", "training", "early", "published")
"""Colours of the best configurations, in their order, on all pictures; the others are grey."""

DRAWN = 30
"""Configurations that the first chart shows; a table lists all."""

SURE = 0.05


def colour(protocol: Protocol, configuration: Configuration) -> str:
    place = next(i for i, c in enumerate(protocol.configurations) if c is configuration)
    return SERIES[place] if place < len(SERIES) else "baseline"


def axis_title(protocol: Protocol) -> str:
    return "accuracy" if protocol.higher else "mean squared error"


def figure(protocol: Protocol, estimate: Estimate) -> str:
    """`98.2 % (97.9 to 98.5)`."""
    if protocol.higher:
        return f"{wording.percent(estimate.mean)} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    return f"{wording.number(estimate.mean)} ({wording.number(estimate.low)} to {wording.number(estimate.high)})"


def signed(protocol: Protocol, value: float) -> str:
    """A difference: in points for accuracy."""
    return (
        f"{100 * value:+.1f}".replace("-", "−")
        if protocol.higher
        else f"{value:+.3g}".replace("-", "−")
    )


def gap(protocol: Protocol, estimate: Estimate, of: float = 1.0) -> str:
    """`1.3 points (95 % CI 0.9 to 1.7)`, turned round where `of` is -1."""
    mean, low, high = (of * v for v in (estimate.mean, estimate.low, estimate.high))
    low, high = min(low, high), max(low, high)
    if protocol.higher:
        return f"{100 * mean:.1f} points (95 % CI {100 * low:.1f} to {100 * high:.1f})".replace(
            "-", "−"
        )
    return f"{wording.number(mean)} (95 % CI {wording.number(low)} to {wording.number(high)})"


def over(estimate: Estimate) -> str:
    """`5 seeds, paired over 1,000 episodes`."""
    seeds = (
        f"{estimate.seeds[0]} seeds"
        if len(set(estimate.seeds)) == 1
        else f"{' and '.join(map(str, estimate.seeds))} seeds"
    )
    return f"{seeds + ', ' if estimate.of_methods else ''}paired over {wording.count(estimate.episodes, 'episode')}"


def verdict(protocol: Protocol, pair: Pair) -> str:
    """Who beats whom, in a sentence that claims no more than the seeds allow."""
    first, second, d = pair.first, pair.second, pair.difference
    if d.mean == 0:
        one, two = (np.mean([e.scores for e in c.experiments], axis=0) for c in (first, second))
        return f"{first.name} and {second.name} score the same {'on every episode' if np.array_equal(one, two) else 'on average'}."
    better = 1 if protocol.higher else -1
    ahead = d.mean * better >= 0
    winner, loser = (first, second) if ahead else (second, first)
    said = f"{gap(protocol, d, (1 if ahead else -1) * better)}, {over(d)}"
    if pair.p >= SURE:
        return f"No winner: {winner.name} is ahead of {loser.name} by {said}; chance would do as much (corrected p = {p_value(pair.p)})."
    if d.of_methods:
        return f"{winner.name} beats {loser.name} by {said}."
    few = "With fewer than three seeds a side this is about checkpoints, not methods."
    return f"{_checkpoints(winner)} beats {_checkpoints(loser, winner)} by {said}. {few}"


def _checkpoints(c: Configuration, after: Configuration | None = None) -> str:
    """`The checkpoint of maml`, `The mean of maml's 3 checkpoints`; within a sentence that began with those of `after`: `that of maml`."""
    if (seeds := len(c.experiments)) > 1:
        return f"{'the' if after else 'The'} mean of the {seeds} checkpoints of {c.name}"
    return f"{'The checkpoint' if after is None else 'that' if len(after.experiments) == 1 else 'the checkpoint'} of {c.name}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def headline(protocol: Protocol) -> str:
    if len(protocol.configurations) == 1:
        only = protocol.best
        seeds = wording.count(len(only.experiments), "seed")
        return f"One configuration alone, {only.name}, with {seeds}: {figure(protocol, only.score)}. Nothing to compare it with."
    best, second, *others = protocol.configurations
    pair = protocol.pair(best, second)
    if pair is None:
        return ""
    beaten = (
        [p for other in others if (p := protocol.pair(best, other)) and p.p < SURE]
        if pair.p >= SURE
        else []
    )
    return " ".join(verdict(protocol, p) for p in [pair, *beaten[:1]])


def ranking(protocol: Protocol, place: str) -> Section:
    """All configurations, the best first, with their intervals."""
    rows = []
    for c in protocol.configurations[:DRAWN]:
        ink = colour(protocol, c)
        detail = f"{wording.count(len(c.experiments), 'seed')}, {wording.count(c.score.episodes, 'test episode')}"
        low, high = (
            (max(c.score.low, 0.0), min(c.score.high, 1.0))
            if protocol.higher
            else (max(c.score.low, 0.0), c.score.high)
        )
        shape = "diamond" if c is protocol.baseline else "circle"
        rows.append(
            {
                "name": c.name
                + (
                    " (baseline)"
                    if c is protocol.baseline and len(protocol.configurations) > 1
                    else ""
                ),
                "value": c.score.mean,
                "low": low,
                "high": high,
                "text": wording.percent(c.score.mean)
                if protocol.higher
                else wording.number(c.score.mean),
                "detail": detail,
                "colour": ink,
                "words": f"{ink}-text",
                "shape": shape,
            }
        )
    frame = pd.DataFrame(rows)
    width = frame["high"].max() - frame["low"].min()
    limits = (
        max(0.0, frame["low"].min() - 0.05 * width),
        min(1.0, frame["high"].max() + 0.02 * width) if protocol.higher else frame["high"].max(),
    )
    spread = limits[1] - limits[0]
    form = (".1%" if spread < 0.08 else ".0%") if protocol.higher else "~r"
    chart = charts.dots(
        frame, alt.Axis(title=axis_title(protocol), format=form, tickCount=5), limits
    )
    sentence = headline(protocol)
    more = len(protocol.configurations) - DRAWN
    notes = [
        "Dots: means over seeds and test episodes; lines: 95 % intervals, by a bootstrap over episodes, and over seeds too from three on."
        + (
            " All intervals are conditional on the test classes: other classes would move all figures together."
            if protocol.higher
            else ""
        )
    ]
    if more > 0:
        notes.append(f"The best {DRAWN} are drawn; {more} more are in the table.")
    notes += [
        f"{name} is {of} over again (same params, seed and scores) and counts once."
        for name, of in protocol.same
    ]
    if protocol.edited:
        notes.append(
            f"{wording.joined(protocol.edited)}: params.yaml was changed after this run; the figures are those of the run."
        )
    told = f"{axis_title(protocol).capitalize()} of {wording.count(len(rows), 'configuration')} with 95 % intervals, the best first."
    picture = Figure(
        f"ranking{place}", charts.page_spec(chart, charts.ROW * len(rows)), f"{told} {sentence}"
    )
    return Section(f"ranking{place}", "Who is best", sentence, [picture], notes)


HEAD = (
    "configuration",
    "seeds",
    "figure",
    "to baseline",
    "95 % CI",
    "corrected p",
    "training",
    "memory",
)


def table(protocol: Protocol) -> dict[str, Any]:
    """All configurations for the page's table: head, and per line its cells in words with what to sort them by."""
    keys = [
        key
        for key in protocol.keys
        if any(_cell(c.params.get(key)) != c.name for c in protocol.configurations)
    ]  # else said by the name
    head = [HEAD[0], *keys, HEAD[1], axis_title(protocol), *HEAD[3:]]
    numeric = [False, *[_numeric(protocol, key) for key in keys], *[True] * 7]
    lines = []
    for c in protocol.configurations:
        d = c.to_baseline
        better = 1 if protocol.higher else -1
        cells: list[tuple[str, Any]] = [(c.name, c.name)]
        cells += [
            (_cell(c.params.get(key)), c.params.get(key) if c.params.get(key) is not None else "")
            for key in keys
        ]
        cells += [
            (str(len(c.experiments)), len(c.experiments)),
            (figure(protocol, c.score), c.score.mean),
        ]
        if d is None:
            cells += [("baseline", 0.0), ("", ""), ("", "")]
        else:
            between = f"{signed(protocol, d.low)} to {signed(protocol, d.high)}"
            cells += [(signed(protocol, d.mean), d.mean), (between, d.low), (p_value(c.p), c.p)]
        cells += [(duration(c.seconds), c.seconds), (f"{c.memory / 1e9:.2f} GB", c.memory)]
        sure = "" if d is None or c.p >= SURE else "win" if d.mean * better > 0 else "lose"
        names = ", ".join(e.name for e in c.experiments)
        lines.append(
            {
                "cells": cells,
                "sure": sure,
                "experiments": names,
                "spread": spread_of_seeds(protocol, c),
            }
        )
    return {"head": head, "numeric": numeric, "lines": lines}


def spread_of_seeds(protocol: Protocol, c: Configuration) -> str:
    """What each seed scores, and how far they are apart."""
    each = [e.metrics[protocol.score] for e in c.experiments]
    if len(each) == 1:
        return ""
    said = ", ".join(wording.percent(v) if protocol.higher else wording.number(v) for v in each)
    sd = float(np.std(each, ddof=1))
    return (
        f"{said}; standard deviation over seeds {100 * sd:.2f} points"
        if protocol.higher
        else f"{said}; standard deviation {wording.number(sd)}"
    )


def _numeric(protocol: Protocol, key: str) -> bool:
    return all(type(c.params.get(key)) in (int, float, type(None)) for c in protocol.configurations)


def _cell(value: Any) -> str:
    return (
        ""
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def matrix(protocol: Protocol) -> dict[str, Any] | None:
    """Who beats whom: for each pair the difference of line minus column, and whether it is sure."""
    shown = list(dict.fromkeys(id(c) for p in protocol.pairs for c in (p.first, p.second)))
    if len(shown) < 2:
        return None
    members = [c for c in protocol.configurations if id(c) in shown]
    better = 1 if protocol.higher else -1
    known = {}
    for p in protocol.pairs:
        known[id(p.first), id(p.second)] = p.difference.mean, p
        known[id(p.second), id(p.first)] = -p.difference.mean, p
    lines = []
    for a in members:
        cells = []
        for b in members:
            if a is b:
                cells.append({"said": "", "sure": "self", "told": ""})
                continue
            mean, p = known[id(a), id(b)]
            sure = "open" if p.p >= SURE else "win" if mean * better > 0 else "lose"
            low, high = p.difference.low, p.difference.high
            low, high = (low, high) if a is p.first else (-high, -low)
            between = f"95 % CI {signed(protocol, low)} to {signed(protocol, high)}"
            told = f"{a.name} minus {b.name}: {signed(protocol, mean)}, {between}, corrected p {p_value(p.p)}"
            cells.append({"said": signed(protocol, mean), "sure": sure, "told": told})
        lines.append({"name": a.name, "cells": cells})
    pairs = protocol.pairs
    won = sum(p.p < SURE for p in pairs)
    differ = "differs" if len(pairs) == 1 else "differ"
    sentence = f"{won} of {wording.count(len(pairs), 'pair')} {differ} by more than chance, corrected for looking at all of them."
    paired = float(np.median([p.difference.paired for p in pairs]))
    note = (
        f"Line minus column{', in points' if protocol.higher else ''}. Pairing by episode makes the intervals "
        f"{100 * (1 - paired):.0f} % narrower than those of independent scores (median over the pairs)."
    )
    left = len(protocol.configurations) - len(members)
    return {
        "sentence": sentence,
        "names": [c.name for c in members],
        "lines": lines,
        "note": note,
        "left": left,
    }


def learning(protocol: Protocol, place: str) -> Section:
    """Validation during training, all configurations overlaid, seeds as means."""
    frames = []
    for c in protocol.configurations:
        each = pd.concat([e.validation[["iteration", protocol.score]] for e in c.experiments])
        course = each.groupby("iteration")[protocol.score].mean().reset_index()
        frames.append((c, pd.DataFrame({"x": course["iteration"], "y": course[protocol.score]})))
    ends = {c.name: float(f["y"].to_numpy()[-1]) for c, f in frames}
    best = (max if protocol.higher else min)(ends, key=lambda name: ends[name])
    sentence = f"{best} ends best in validation; {_pace(protocol, frames)}"
    return Section(
        f"learning{place}",
        "How they learned",
        sentence,
        [_overlay(protocol, f"learning{place}", frames, "iteration", ",d", sentence)],
        [
            f"Validation {axis_title(protocol)}, means over seeds. Point at a line to bring it to the front."
        ],
    )


def _pace(protocol: Protocol, frames: list[tuple[Configuration, pd.DataFrame]]) -> str:
    """Which one is there first, in iterations: within a point (or 5 %) of the best end."""
    ends = [f["y"].max() if protocol.higher else f["y"].min() for _, f in frames]
    goal = max(ends) - 0.01 if protocol.higher else min(ends) * 1.05
    reached = []
    for c, f in frames:
        there = f[f["y"] >= goal] if protocol.higher else f[f["y"] <= goal]
        if len(there):
            reached.append((int(there["x"].iloc[0]), c.name))
    iteration, name = min(reached)
    near = (
        f"within one point of the best ({wording.percent(goal)})"
        if protocol.higher
        else f"within 5 % of the best ({wording.number(goal)})"
    )
    return f"{name} is the first {near}, after {wording.count(iteration, 'iteration')}."


def adaptation(protocol: Protocol, place: str) -> Section | None:
    """The figure after 0, 1, ... inner steps of those that take any."""
    frames = []
    for c in protocol.configurations:
        each = pd.concat(
            [e.curve[e.curve["mode"] == e.mode][["step", protocol.score]] for e in c.experiments]
        )
        course = each[each["step"] <= 10].groupby("step")[protocol.score].mean().reset_index()
        if len(course) > 1:
            frames.append((c, pd.DataFrame({"x": course["step"], "y": course[protocol.score]})))
    if not frames:
        return None
    sign = 1 if protocol.higher else -1
    gains = [(sign * (f["y"].iloc[1] - f["y"].iloc[0]), c.name) for c, f in frames]
    most, name = max(gains)
    size = wording.points(most) if protocol.higher else wording.number(most)
    sentence = f"The first inner step gives {name} the most: {size}."
    without = [c.name for c in protocol.configurations if c.name not in [x.name for x, _ in frames]]
    notes = (
        [
            f"{wording.joined(without)} take no inner steps."
            if len(without) > 1
            else f"{without[0]} takes no inner steps."
        ]
        if without
        else []
    )
    figure_ = _overlay(protocol, f"adaptation{place}", frames, "inner steps", "d", sentence)
    return Section(f"adaptation{place}", "How they adapt", sentence, [figure_], notes)


def _overlay(
    protocol: Protocol,
    name: str,
    frames: list[tuple[Configuration, pd.DataFrame]],
    x_title: str,
    form: str,
    sentence: str,
) -> Figure:
    parts: list[pd.DataFrame] = []
    ends: list[dict[str, Any]] = []
    for c, frame in frames:
        ink = colour(protocol, c)
        faint = ink == "baseline"
        said = [wording.percent(y) if protocol.higher else wording.number(y) for y in frame["y"]]
        parts.append(frame.assign(name=c.name, ink=charts.var(ink), faint=faint, figure=said))
        if not faint:
            ends.append(
                {
                    "y": float(frame["y"].to_numpy()[-1]),
                    "name": c.name,
                    "ink": charts.var(f"{ink}-text"),
                }
            )
    every = pd.concat(parts, ignore_index=True)
    y_axis = _score_axis(protocol, float(every["y"].min()), float(every["y"].max()))
    low, high = y_axis["scale"].domain
    places = charts.spread([min(max(e["y"], low), high) for e in ends], 0.075 * (high - low))
    named = pd.DataFrame(
        [e | {"y": y} for e, y in zip(ends, places, strict=True)]
        or [{"y": low, "name": "", "ink": ""}]
    )
    x_axis = {
        "axis": alt.Axis(title=x_title, format=form, tickCount=5),
        "scale": alt.Scale(domain=[float(every["x"].min()), float(every["x"].max())], nice=False),
    }
    title = axis_title(protocol)
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("x:Q", title=x_title, format=form),
        alt.Tooltip("figure:N", title=title),
    ]
    chart = charts.overlay(every, named, x_axis, y_axis, tooltip)
    what = f"{axis_title(protocol).capitalize()} of {wording.count(len(frames), 'configuration')} over {x_title}."
    return Figure(name, charts.page_spec(chart, 300), f"{what} {sentence}")


def cost(protocol: Protocol, place: str) -> Section:
    """Accuracy against training time and memory; nothing on the dashed line is beaten in both."""
    figures, fronts = [], []
    for key, title in (("time", "training, seconds"), ("memory", "peak memory, GB")):
        points = [_priced(protocol, c, key) for c in protocol.configurations]
        front = pareto(points, protocol.higher)
        fronts.append(front)
        frame = pd.DataFrame(
            [p | {"said": p["name"] if p in front or len(points) <= 12 else ""} for p in points]
        )
        x_axis = {
            "axis": alt.Axis(title=title, format="~r", tickCount=5),
            "scale": alt.Scale(domain=[0.0, float(frame["x"].max()) * 1.25], nice=False),
        }
        tooltip = [
            alt.Tooltip("name:N", title=" "),
            alt.Tooltip("figure:N", title=axis_title(protocol)),
            alt.Tooltip("cost:N", title=key),
        ]
        line = pd.DataFrame([{"x": p["x"], "y": p["y"]} for p in front])
        chart = charts.scatter(
            frame,
            line,
            x_axis,
            _score_axis(protocol, float(frame["low"].min()), float(frame["high"].max())),
            tooltip,
        )
        told = f"{axis_title(protocol).capitalize()} against {title}; not beaten in both: {wording.joined([p['name'] for p in front])}."
        figures.append(Figure(f"cost-{key}{place}", charts.page_spec(chart, 280), told))
    names = [p["name"] for p in fronts[0]]
    sentence = f"{wording.joined(names)} {'is' if len(names) == 1 else 'are'} not beaten in both {axis_title(protocol)} and training time."
    notes = [
        "Time and memory of training, from run.json: means over seeds (memory: the largest). Machines and what ran beside it count."
    ]
    return Section(f"cost{place}", "What it costs", sentence, figures, notes)


def _priced(protocol: Protocol, c: Configuration, key: str) -> dict[str, Any]:
    price, ink = c.seconds if key == "time" else c.memory / 1e9, colour(protocol, c)
    return {
        "name": c.name,
        "x": price,
        "y": c.score.mean,
        "low": c.score.low,
        "high": c.score.high,
        "ink": charts.var(ink),
        "words": charts.var(f"{ink}-text"),
        "figure": figure(protocol, c.score),
        "cost": duration(price) if key == "time" else f"{price:.2f} GB",
    }


def _score_axis(protocol: Protocol, low: float, high: float) -> dict[str, Any]:
    """An axis that shows what differs: it need not start at 0 or chance, since nothing on it is a length."""
    pad = 0.05 * max(high - low, 1e-6)
    form = "~r" if not protocol.higher else ".1%" if high - low < 0.08 else ".0%"
    return {
        "axis": alt.Axis(title=axis_title(protocol), format=form, tickCount=5),
        "scale": alt.Scale(
            domain=[max(0.0, low - pad), min(1.0, high + pad) if protocol.higher else high + pad],
            nice=False,
            zero=False,
        ),
    }


def pareto(points: list[dict[str, Any]], higher: bool) -> list[dict[str, Any]]:
    """Those that no other beats in both, the cheapest first."""
    sign = 1 if higher else -1
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (p["x"], -sign * p["y"])):
        if not front or sign * point["y"] > sign * front[-1]["y"]:
            front.append(point)
    return front


def groups(protocol: Protocol, place: str) -> Section | None:
    """Where the best and the baseline (or the second) differ: accuracy by group of classes, such as an alphabet."""
    first, second = against(protocol)
    if (
        second is None
        or first.first.classes.empty
        or not first.first.classes["group"].astype(bool).any()
    ):
        return None
    per_group = by_group(first, second)
    if len(per_group) < 2:
        return None
    rows = []
    for line in per_group.to_dict("records"):
        mean, half = line["mean"], line["ci95"]
        rows.append(
            {
                "name": line["group"],
                "value": mean,
                "low": mean - half,
                "high": mean + half,
                "text": signed(protocol, mean),
                "detail": wording.count(line["episodes"], "episode"),
                "colour": "model" if mean >= 0 else "wrong",
                "words": "baseline-text",
                "shape": "circle",
            }
        )
    frame = pd.DataFrame(rows)
    top, bottom = rows[0], rows[-1]
    sentence = f"{first.name} gains most over {second.name} on {top['name']} ({top['text']} points), least on {bottom['name']} ({bottom['text']})."
    ends = pd.concat([frame["low"], frame["high"]]).dropna()
    limits = (min(0.0, float(ends.min())) - 0.01, max(0.0, float(ends.max())) + 0.01)
    chart = charts.dots(
        frame,
        alt.Axis(title=f"{first.name} minus {second.name}", format="+.0%", tickCount=5),
        limits,
        rule=0.0,
    )
    told = f"Difference of accuracy by group, with 95 % intervals over episodes. {sentence}"
    return Section(
        f"groups{place}",
        "Where they differ",
        sentence,
        [Figure(f"groups{place}", charts.page_spec(chart, charts.ROW * len(rows)), told)],
        [
            "First seeds of both. Intervals are over the episodes with one of the group's classes, not corrected for the number of groups."
        ],
    )


def against(protocol: Protocol) -> tuple[Configuration, Configuration | None]:
    """The two that are looked at closely: the best, and the baseline or, where the best is the baseline, the second."""
    if len(protocol.configurations) == 1:
        return protocol.best, None
    return (
        protocol.best,
        protocol.baseline if protocol.best is not protocol.baseline else protocol.configurations[1],
    )


def by_group(first: Configuration, second: Configuration) -> pd.DataFrame:
    """`group`, `mean` (accuracy of the first's first seed minus the second's), `ci95`, `episodes`, the largest difference first."""
    both = answers(first, second)
    test = pd.read_parquet(
        first.first.file("data/prepared/test.parquet"), columns=["episode", "classes"]
    )
    table = pd.read_parquet(first.first.file("data/prepared/classes.parquet"), columns=["group"])[
        "group"
    ].to_numpy()
    class_of = dict(zip(test["episode"], test["classes"], strict=True))
    both["group"] = [
        table[int(class_of[e][label])]
        for e, label in zip(both["episode"], both["label"], strict=True)
    ]
    each = both.groupby(["group", "episode"])["gain"].mean().reset_index()
    found = each.groupby("group")["gain"].agg(["mean", "std", "size"]).reset_index()
    found["ci95"] = 1.96 * found["std"] / np.sqrt(found["size"])
    found = found.rename(columns={"size": "episodes"})[["group", "mean", "ci95", "episodes"]]
    return found.sort_values(["mean", "group"], ascending=[False, True], ignore_index=True)


def answers(first: Configuration, second: Configuration) -> pd.DataFrame:
    """One line a query: `episode`, `image`, `label`, `one`, `two` (what each said), `gain` (1: the first alone is right, -1: the
    second alone)."""
    a, b = (
        pd.read_parquet(c.first.file("reports/scores/answers.parquet")) for c in (first, second)
    )
    both = a[["episode", "image", "label"]].assign(
        one=a["after"].to_numpy(), two=b["after"].to_numpy()
    )
    both["gain"] = (both["one"] == both["label"]).astype(int) - (
        both["two"] == both["label"]
    ).astype(int)
    return both


def numbers(protocol: Protocol) -> Table:
    """The table in words, for Markdown."""
    made = table(protocol)
    rows = [[said for said, _ in line["cells"]] for line in made["lines"]]
    return Table(
        "All configurations, the best first",
        made["head"],
        rows,
        frozenset(i for i, n in enumerate(made["numeric"]) if n),
    )
