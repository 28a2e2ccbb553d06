"""What transfers to what: experiments trained on some groups of classes, by the group that they are tested on."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from tasks.reports.comparison.groups import MOST_IN_MATRIX, SEED, Configuration, Protocol, settings
from tasks.reports.comparison.sections import SURE, figure, gap, over, p_value
from tasks.reports.kit import charts, maps, wording
from tasks.reports.kit.section import Figure, Section, Table
from tasks.reports.run.confusions import pooled

KEY = "train.groups"


def transfer(protocol: Protocol, place: str) -> Section | None:
    """Accuracy by training group and test group, of the most configurations that differ in their training groups alone."""
    alike: dict[str, list[Configuration]] = {}
    for c in protocol.configurations:
        values = settings(c.first)
        if values.get(KEY) and not c.first.classes.empty:
            alike.setdefault(
                repr(sorted((k, repr(v)) for k, v in values.items() if k not in (KEY, SEED))), []
            ).append(c)
    members = max(alike.values(), key=len, default=[])
    if len(members) < 2:
        return None
    names = {id(c): " + ".join(settings(c.first)[KEY]) for c in members}
    cells = pd.DataFrame([{"row": names[id(c)]} | cell for c in members for cell in by_group(c)])
    low, high = float(cells["accuracy"].min()), float(cells["accuracy"].max())
    cells["strength"] = (cells["accuracy"] - low) / max(high - low, 1e-9)
    cells["said"] = [f"{100 * a:.0f}" for a in cells["accuracy"]]
    cells["figure"] = [
        wording.figure("accuracy", a, h)
        for a, h in zip(cells["accuracy"], cells["ci95"], strict=True)
    ]
    rows, columns = (
        [names[id(c)] for c in members],
        sorted(set(cells["column"])),
    )  # members: the best first
    tooltip = [
        alt.Tooltip("row:N", title="trained on"),
        alt.Tooltip("column:N", title="tested on"),
        alt.Tooltip("figure:N", title="accuracy"),
    ]
    chart = maps.heat(cells, ("tested on", "trained on"), rows, columns, tooltip)
    sentence = _teaches(protocol, members, names)
    notes = [
        "Accuracy in percent, seeds pooled; an episode's classes may be of several groups, and a class counts for its own. Groups to "
        "train on also differ in how many classes they have (in the table). Single squares are not tested against each other: of this many "
        "some differ by chance."
    ]
    if own := sorted(set(rows) & set(columns)):
        notes.append(
            f"Of {wording.joined(own)} there are classes on both sides, though not the same ones."
        )
    told = f"Table in colour: accuracy of {wording.count(len(rows), 'training group')} on {wording.count(len(columns), 'test group')}."
    picture = Figure(
        f"transfer{place}", charts.page_spec(chart, 60 + 34 * len(rows)), f"{told} {sentence}"
    )
    lines = [
        [names[id(c)], str(c.first.config.get("classes", "")), figure(protocol, c.score)]
        + [
            cells[(cells["row"] == names[id(c)]) & (cells["column"] == column)]["figure"].iloc[0]
            for column in columns
        ]
        for c in members
    ]
    head = ["trained on", "classes", "all test groups", *columns]
    return Section(
        f"transfer{place}",
        "What transfers to what",
        sentence,
        [picture],
        notes,
        [
            Table(
                "Accuracy by group, its 95 % interval over the group's classes",
                head,
                lines,
                frozenset(range(1, len(head))),
            )
        ],
    )


def by_group(c: Configuration) -> list[dict[str, Any]]:
    """Of each test group: `column` (its name), `accuracy` and `ci95`, the queries of all seeds together."""
    keys = ["group", "class"]
    every = (
        pd.concat([e.classes for e in c.experiments])
        .groupby(keys, as_index=False)[["queries", "correct"]]
        .sum()
    )
    every = every.merge(c.first.classes[[*keys, "ci95"]], on=keys)
    found = []
    for name, part in every.groupby("group", sort=True):
        accuracy, half = pooled(part)
        found.append({"column": str(name), "accuracy": accuracy, "ci95": half})
    return found


def _teaches(protocol: Protocol, members: list[Configuration], names: dict[int, str]) -> str:
    """What the pairs of training groups that were compared (those of the matrix, by its corrected p-values) allow to say."""
    within = {id(c) for c in members}
    pairs = [p for p in protocol.pairs if id(p.first) in within and id(p.second) in within]
    if not pairs:
        return f"The table is not about the {MOST_IN_MATRIX} best configurations, which alone are compared in pairs."
    sure = [p for p in pairs if p.p < SURE]
    most = max(sure or pairs, key=lambda p: abs(p.difference.mean))
    ahead = most.difference.mean >= 0
    better, worse = (most.first, most.second) if ahead else (most.second, most.first)
    said = f"{gap(protocol, most.difference, 1 if ahead else -1)}, {over(most.difference)}"
    if not sure:
        return (
            f"No training group teaches more than another beyond chance: {names[id(better)]} is ahead of {names[id(worse)]} by {said}; "
            f"chance would do as much (corrected p {p_value(most.p)})."
        )
    few = (
        ""
        if most.difference.of_methods
        else " With fewer than three seeds a side this is about checkpoints, not about groups."
    )
    return (
        f"Over all test groups {names[id(better)]} teaches more than {names[id(worse)]}, by {said}; {len(sure)} of "
        f"{wording.count(len(pairs), 'pair')} of training groups {'differs' if len(pairs) == 1 else 'differ'} beyond chance.{few}"
    )
