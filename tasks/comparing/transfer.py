"""What transfers to what: experiments trained on some groups of classes, by the group that they are tested on."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from tasks import charts, maps
from tasks.comparing.groups import SEED, Configuration, Protocol, settings
from tasks.comparing.sections import figure
from tasks.reporting import words
from tasks.reporting.mistakes import pooled
from tasks.reporting.parts import Figure, Section, Table

KEY = "train.groups"


def transfer(protocol: Protocol, place: str) -> Section | None:
    """Accuracy by training group and test group, of the most configurations that differ in their training groups alone."""
    alike: dict[str, list[Configuration]] = {}
    for c in protocol.configurations:
        values = settings(c.first)
        if values.get(KEY) and not c.first.classes.empty:
            alike.setdefault(repr(sorted((k, repr(v)) for k, v in values.items() if k not in (KEY, SEED))), []).append(c)
    members = max(alike.values(), key=len, default=[])
    if len(members) < 2:
        return None
    names = {id(c): " + ".join(settings(c.first)[KEY]) for c in members}
    cells = pd.DataFrame([{"row": names[id(c)]} | cell for c in members for cell in by_group(c)])
    low, high = float(cells["accuracy"].min()), float(cells["accuracy"].max())
    cells["strength"] = (cells["accuracy"] - low) / max(high - low, 1e-9)
    cells["said"] = [f"{100 * a:.0f}" for a in cells["accuracy"]]
    cells["figure"] = [words.figure("accuracy", a, h) for a, h in zip(cells["accuracy"], cells["ci95"], strict=True)]
    rows, columns = [names[id(c)] for c in members], sorted(set(cells["column"]))  # members: the best first
    tooltip = [
        alt.Tooltip("row:N", title="trained on"), alt.Tooltip("column:N", title="tested on"), alt.Tooltip("figure:N", title="accuracy"),
    ]  # fmt: skip
    chart = maps.heat(cells, ("tested on", "trained on"), rows, columns, tooltip)
    best, worst = members[0], members[-1]
    sentence = (
        f"Over all test groups {names[id(best)]} teaches most, {figure(protocol, best.score)}, and {names[id(worst)]} least, "
        f"{figure(protocol, worst.score)}. {_spread(cells)}"
    )
    notes = [
        "Accuracy in percent, seeds pooled; an episode's classes may be of several groups, and a class counts for its own. Groups to "
        "train on also differ in how many classes they have (in the table)."
    ]
    if own := sorted(set(rows) & set(columns)):
        notes.append(f"Of {words.joined(own)} there are classes on both sides, though not the same ones.")
    told = f"Table in colour: accuracy of {words.count(len(rows), 'training group')} on {words.count(len(columns), 'test group')}."
    picture = Figure(f"transfer{place}", charts.page_spec(chart, 60 + 34 * len(rows)), f"{told} {sentence}")
    lines = [
        [names[id(c)], str(c.first.config.get("classes", "")), figure(protocol, c.score)]
        + [cells[(cells["row"] == names[id(c)]) & (cells["column"] == column)]["figure"].iloc[0] for column in columns]
        for c in members
    ]
    head = ["trained on", "classes", "all test groups", *columns]
    return Section(
        f"transfer{place}", "What transfers to what", sentence, [picture], notes,
        [Table("Accuracy by group, its 95 % interval over the group's classes", head, lines, frozenset(range(1, len(head))))],
    )  # fmt: skip


def by_group(c: Configuration) -> list[dict[str, Any]]:
    """Of each test group: `column` (its name), `accuracy` and `ci95`, the queries of all seeds together."""
    keys = ["group", "class"]
    every = pd.concat([e.classes for e in c.experiments]).groupby(keys, as_index=False)[["queries", "correct"]].sum()
    every = every.merge(c.first.classes[[*keys, "ci95"]], on=keys)
    found = []
    for name, part in every.groupby("group", sort=True):
        accuracy, half = pooled(part)
        found.append({"column": str(name), "accuracy": accuracy, "ci95": half})
    return found


def _spread(cells: pd.DataFrame) -> str:
    """The test group that training matters most for."""
    ends = cells.groupby("column")["accuracy"].agg(["min", "max"])
    column = str((ends["max"] - ends["min"]).idxmax())
    of = cells[cells["column"] == column].sort_values("accuracy", kind="stable")
    low, high = of.iloc[0], of.iloc[-1]
    return (
        f"The choice matters most for {column}: {words.percent(high['accuracy'])} after {high['row']}, "
        f"{words.percent(low['accuracy'])} after {low['row']}."
    )
