"""Real episodes, from typical to worst, with the model's answers before and after adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import wording
from tasks.reports.kit.pictures import Examples, Lines, Sheet
from tasks.reports.kit.pictures import shown as show
from tasks.reports.kit.results import Results

PLACES = (
    ("typical", 0.5),
    ("below average", 0.25),
    ("one in ten is worse", 0.1),
    ("one in twenty is worse", 0.05),
    ("one in fifty is worse", 0.02),
    ("the worst", 0.0),
)
"""Which episodes are shown: words, and the quantile of the headline accuracy."""

TILES = 100
"""At most so many queries an episode are drawn."""


@dataclass(frozen=True)
class Query:
    """cell: place on the sheet; answer: the label given; right: whether it is the true one."""

    cell: int
    answer: str
    right: bool


@dataclass(frozen=True)
class Class:
    """label: the letter it goes by in the episode; support: cells of the sheet; before, after: its queries."""

    label: str
    name: str
    group: str
    support: list[int]
    before: list[Query]
    after: list[Query]


@dataclass(frozen=True)
class Card:
    """One episode. before, after: shares of right answers, in words; told: the same for who cannot see the picture."""

    episode: int
    place: str
    before: str
    after: str
    told_before: str
    told_after: str
    classes: list[Class]
    sheet: Sheet | Lines
    large: bool
    shown: int
    queries: int


def label(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def cards(results: Results) -> list[Card]:
    """Episodes at the quantiles of PLACES, each once."""
    known = set(results.answers["episode"])
    order = (
        results.headline[results.headline["episode"].isin(known)]
        .sort_values(["accuracy", "episode"])["episode"]
        .tolist()
    )
    picked: dict[int, str] = {}
    for place, quantile in reversed(PLACES):  # the worst first: it must not be lost to a neighbour
        free = [i for i in range(len(order)) if order[i] not in picked]
        if free:
            picked[
                order[min(free, key=lambda i: (abs(i - round(quantile * (len(order) - 1))), i))]
            ] = place
    return [_card(results, episode, place) for episode, place in reversed(picked.items())]


def _card(results: Results, episode: int, place: str) -> Card:
    line = results.test.loc[results.test["episode"] == episode].iloc[0]
    answers = results.answers[results.answers["episode"] == episode]
    return card(results.meta, line, answers, results.table, results.examples, place)


def card(
    meta: dict[str, Any],
    line: pd.Series,
    answers: pd.DataFrame,
    table: pd.DataFrame,
    examples: Examples,
    place: str,
) -> Card:
    """An episode with two sets of answers.

    line: its row of test.parquet; answers: `image`, `label`, `before`, `after` of its queries; table, examples: of data/prepared
    """
    ways, shots, queries = (meta[key] for key in ("ways", "shots", "queries"))
    shown = min(queries, max(1, TILES // ways))
    rows = [int(r) for r in line["support"]]
    classes = []
    for way in range(ways):
        known = table.iloc[int(line["classes"][way])]
        mine = answers[answers["label"] == way].head(shown)
        first = len(rows)
        rows += [int(r) for r in mine["image"]]
        before, after = (
            [
                Query(first + i, label(int(answer)), int(answer) == way)
                for i, answer in enumerate(mine[column])
            ]
            for column in ("before", "after")
        )
        classes.append(
            Class(
                label(way),
                known["class"].removeprefix(f"{known['group']}/"),
                known["group"],
                list(range(way * shots, (way + 1) * shots)),
                before,
                after,
            )
        )
    shares = [float(np.mean(answers[column] == answers["label"])) for column in ("before", "after")]
    told = [_told(classes, when) for when in ("before", "after")]
    return Card(
        int(line["episode"]),
        place,
        wording.percent(shares[0]),
        wording.percent(shares[1]),
        told[0],
        told[1],
        classes,
        show(examples, rows),
        ways * shown <= 25,
        shown,
        queries,
    )


def _told(classes: list[Class], when: str) -> str:
    """'7 of 75 queries wrong: 2 of A, 5 of C.'"""
    wrong = [(c.label, sum(not q.right for q in getattr(c, when))) for c in classes]
    total, shown = sum(n for _, n in wrong), sum(len(getattr(c, when)) for c in classes)
    if not total:
        return f"all {wording.count(shown, 'query', 'queries')} right."
    return f"{total} of {wording.count(shown, 'query', 'queries')} wrong: {wording.joined([f'{n} of {c}' for c, n in wrong if n])}."
