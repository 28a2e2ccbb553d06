"""Example episodes with the model's predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import wording
from tasks.reports.kit.examples import Examples, SpriteSheet, TextList, build_sheet
from tasks.reports.kit.results import Results

RANKS = (
    ("median", 0.5),
    ("25th percentile", 0.25),
    ("10th percentile", 0.1),
    ("5th percentile", 0.05),
    ("2nd percentile", 0.02),
    ("worst", 0.0),
)
"""The episodes that are shown: a name, and the quantile of the headline accuracy."""

MAX_QUERIES = 100
"""Maximum number of queries drawn per episode."""


@dataclass(frozen=True)
class Query:
    """A query with its prediction.

    Attributes:
        cell: Its cell on the sheet.
        predicted: Letter of the predicted class.
        is_correct: Whether the prediction is correct.
    """

    cell: int
    predicted: str
    is_correct: bool


@dataclass(frozen=True)
class EpisodeClass:
    """A class of an episode.

    Attributes:
        label: Its letter in the episode.
        name: Its name.
        group: Its group; may be empty.
        support: Cells of its support examples.
        before: Its queries with the predictions before adaptation.
        after: Its queries with the predictions after adaptation.
    """

    label: str
    name: str
    group: str
    support: list[int]
    before: list[Query]
    after: list[Query]


@dataclass(frozen=True)
class EpisodeCard:
    """An episode.

    Attributes:
        episode: Its index.
        rank: Its rank among the episodes, as text.
        before: Accuracy before adaptation, as text.
        after: Accuracy after adaptation, as text.
        alt_before: Text alternative of the predictions before adaptation.
        alt_after: Text alternative of the predictions after adaptation.
        classes: Its classes.
        sheet: Its examples.
        large: Whether it has few enough queries to draw them enlarged.
        shown: Queries shown per class.
        queries: Queries per class; the largest number if they differ.
        balanced: Whether all classes have equally many queries.
    """

    episode: int
    rank: str
    before: str
    after: str
    alt_before: str
    alt_after: str
    classes: list[EpisodeClass]
    sheet: SpriteSheet | TextList
    large: bool
    shown: int
    queries: int
    balanced: bool


def format_class_letter(index: int) -> str:
    """Return the letter of a class; from the 27th class on, its number."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def select_cards(results: Results) -> list[EpisodeCard]:
    """Return the episodes at the quantiles of RANKS, each once."""
    with_predictions = set(results.predictions["episode"])
    scores = results.headline_episodes
    scores = scores[scores["episode"].isin(with_predictions)].sort_values(["accuracy", "episode"])
    order = scores["episode"].tolist()
    selected: dict[int, str] = {}
    for rank, quantile in reversed(RANKS):  # the worst first, before another rank takes it
        target = round(quantile * (len(order) - 1))
        free = [i for i in range(len(order)) if order[i] not in selected]
        if free:
            selected[order[min(free, key=lambda i: (abs(i - target), i))]] = rank
    cards = []
    for episode, rank in reversed(selected.items()):
        fixed = results.test.loc[results.test["episode"] == episode].iloc[0]
        predictions = results.predictions[results.predictions["episode"] == episode]
        cards.append(
            build_card(
                results.meta,
                fixed,
                predictions,
                results.dataset_classes,
                results.examples,
                rank,
            )
        )
    return cards


def build_card(
    meta: dict[str, Any],
    fixed: pd.Series,
    predictions: pd.DataFrame,
    dataset_classes: pd.DataFrame,
    examples: Examples,
    rank: str,
) -> EpisodeCard:
    """Build the card of an episode with two sets of predictions.

    Args:
        meta: meta.json of data/prepared.
        fixed: The episode's row of test.parquet.
        predictions: `image`, `label`, `before` and `after` of its queries.
        dataset_classes: classes.parquet of data/prepared.
        examples: The examples of data/prepared.
        rank: The episode's rank, as text.
    """
    ways = len(fixed["classes"])
    shots = fixed.get("shots", [meta["shots"]] * ways)
    counts = np.bincount(predictions["label"], minlength=ways)
    queries = int(counts.max())
    shown = min(queries, max(1, MAX_QUERIES // ways))
    indices = [int(index) for index in fixed["support"]]
    classes = []
    for way in range(ways):
        dataset_class = dataset_classes.iloc[int(fixed["classes"][way])]
        queries_of_class = predictions[predictions["label"] == way].head(shown)
        first = len(indices)
        indices += [int(index) for index in queries_of_class["image"]]
        before, after = (
            [
                Query(first + i, format_class_letter(int(label)), int(label) == way)
                for i, label in enumerate(queries_of_class[column])
            ]
            for column in ("before", "after")
        )
        group = dataset_class["group"]
        name = dataset_class["class"].removeprefix(f"{group}/")
        support = list(range(int(sum(shots[:way])), int(sum(shots[: way + 1]))))
        classes.append(EpisodeClass(format_class_letter(way), name, group, support, before, after))
    accuracy = {
        column: wording.format_percent(float(np.mean(predictions[column] == predictions["label"])))
        for column in ("before", "after")
    }
    return EpisodeCard(
        episode=int(fixed["episode"]),
        rank=rank,
        before=accuracy["before"],
        after=accuracy["after"],
        alt_before=_describe_errors([(c.label, c.before) for c in classes]),
        alt_after=_describe_errors([(c.label, c.after) for c in classes]),
        classes=classes,
        sheet=build_sheet(examples, indices),
        large=ways * shown <= 25,
        shown=shown,
        queries=queries,
        balanced=int(counts.min()) == queries,
    )


def _describe_errors(classes: list[tuple[str, list[Query]]]) -> str:
    """Describe the errors: '7 of 75 queries wrong: 2 of A and 5 of C.'"""
    errors = [(label, sum(not query.is_correct for query in queries)) for label, queries in classes]
    queries = wording.format_count(sum(len(queries) for _, queries in classes), "query", "queries")
    total = sum(number for _, number in errors)
    if not total:
        return f"all {queries} correct."
    by_class = wording.join_words([f"{number} of {label}" for label, number in errors if number])
    return f"{total} of {queries} wrong: {by_class}."
