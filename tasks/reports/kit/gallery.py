"""Example episodes with the model's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import pictures, wording
from tasks.reports.kit.pictures import Examples, Lines, Sheet
from tasks.reports.kit.results import Results

RANKS = (
    ("median", 0.5),
    ("25th percentile", 0.25),
    ("10th percentile", 0.1),
    ("5th percentile", 0.05),
    ("2nd percentile", 0.02),
    ("worst", 0.0),
)
"""Which episodes are shown: a name, and the quantile of the headline accuracy."""

MAX_QUERIES = 100
"""Queries drawn per episode at most."""


@dataclass(frozen=True)
class Query:
    """A query with its answer.

    Attributes:
        cell: Its cell on the sheet.
        answer: Letter of the predicted class.
        right: Whether the prediction is correct.
    """

    cell: int
    answer: str
    right: bool


@dataclass(frozen=True)
class Class:
    """A class of an episode.

    Attributes:
        label: Its letter in the episode.
        name: Its name.
        group: Its group; may be empty.
        support: Cells of its support examples.
        before: Its queries with the answers before adaptation.
        after: Its queries with the answers after adaptation.
    """

    label: str
    name: str
    group: str
    support: list[int]
    before: list[Query]
    after: list[Query]


@dataclass(frozen=True)
class Card:
    """An episode.

    Attributes:
        episode: Its number.
        rank: Why it is shown.
        before: Accuracy before adaptation, as text.
        after: Accuracy after adaptation, as text.
        alt_before: Text alternative of the answers before adaptation.
        alt_after: Text alternative of the answers after adaptation.
        classes: Its classes.
        sheet: Its examples.
        large: Whether it has few enough queries to draw them enlarged.
        shown: Queries shown per class.
        queries: Queries per class.
    """

    episode: int
    rank: str
    before: str
    after: str
    alt_before: str
    alt_after: str
    classes: list[Class]
    sheet: Sheet | Lines
    large: bool
    shown: int
    queries: int


def class_letter(index: int) -> str:
    """Return the letter of a class, or its number from the 27th class on."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def select_cards(results: Results) -> list[Card]:
    """Return the episodes at the quantiles of RANKS, each once."""
    known = set(results.answers["episode"])
    scores = results.headline_episodes
    scores = scores[scores["episode"].isin(known)].sort_values(["accuracy", "episode"])
    order = scores["episode"].tolist()
    selected: dict[int, str] = {}
    for rank, quantile in reversed(RANKS):  # the worst first, so that no other rank takes it
        target = round(quantile * (len(order) - 1))
        free = [i for i in range(len(order)) if order[i] not in selected]
        if free:
            selected[order[min(free, key=lambda i: (abs(i - target), i))]] = rank
    cards = []
    for episode, rank in reversed(selected.items()):
        row = results.test.loc[results.test["episode"] == episode].iloc[0]
        answers = results.answers[results.answers["episode"] == episode]
        cards.append(build_card(results.meta, row, answers, results.table, results.examples, rank))
    return cards


def build_card(
    meta: dict[str, Any],
    row: pd.Series,
    answers: pd.DataFrame,
    table: pd.DataFrame,
    examples: Examples,
    rank: str,
) -> Card:
    """Build the card of an episode with two sets of answers.

    Args:
        meta: meta.json of data/prepared.
        row: The episode's row of test.parquet.
        answers: `image`, `label`, `before` and `after` of its queries.
        table: classes.parquet of data/prepared.
        examples: The examples of data/prepared.
        rank: Why the episode is shown.
    """
    ways, shots, queries = (meta[key] for key in ("ways", "shots", "queries"))
    shown = min(queries, max(1, MAX_QUERIES // ways))
    indices = [int(index) for index in row["support"]]
    classes = []
    for way in range(ways):
        known = table.iloc[int(row["classes"][way])]
        own = answers[answers["label"] == way].head(shown)
        first = len(indices)
        indices += [int(index) for index in own["image"]]
        before, after = (
            [
                Query(first + i, class_letter(int(answer)), int(answer) == way)
                for i, answer in enumerate(own[column])
            ]
            for column in ("before", "after")
        )
        name, group = known["class"].removeprefix(f"{known['group']}/"), known["group"]
        support = list(range(way * shots, (way + 1) * shots))
        classes.append(Class(class_letter(way), name, group, support, before, after))
    accuracy = {
        column: wording.percent(float(np.mean(answers[column] == answers["label"])))
        for column in ("before", "after")
    }
    return Card(
        episode=int(row["episode"]),
        rank=rank,
        before=accuracy["before"],
        after=accuracy["after"],
        alt_before=_describe_errors([(c.label, c.before) for c in classes]),
        alt_after=_describe_errors([(c.label, c.after) for c in classes]),
        classes=classes,
        sheet=pictures.build_sheet(examples, indices),
        large=ways * shown <= 25,
        shown=shown,
        queries=queries,
    )


def _describe_errors(answers: list[tuple[str, list[Query]]]) -> str:
    """Return '7 of 75 queries wrong: 2 of A and 5 of C.'"""
    errors = [(label, sum(not query.right for query in queries)) for label, queries in answers]
    queries = wording.count(sum(len(queries) for _, queries in answers), "query", "queries")
    total = sum(number for _, number in errors)
    if not total:
        return f"all {queries} correct."
    by_class = wording.join([f"{number} of {label}" for label, number in errors if number])
    return f"{total} of {queries} wrong: {by_class}."
