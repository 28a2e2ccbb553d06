"""The episodes on which two checkpoints disagree most, with their pictures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from tasks.reports.comparison.groups import Configuration, Protocol
from tasks.reports.comparison.sections import against, answers
from tasks.reports.kit import gallery, pictures

EACH_WAY = 2
"""Episodes shown in which the one gains most, and in which the other does."""


@dataclass(frozen=True)
class Disagreements:
    """cards: episodes; each card's `before` are the second's answers, its `after` the first's."""

    first: Configuration
    second: Configuration
    sentence: str
    cards: list[gallery.Card]


def find(protocol: Protocol) -> Disagreements | None:
    """Of the first seeds of the two that are looked at closely; None where there are no pictures or no second."""
    first, second = against(protocol)
    if second is None or not protocol.higher:
        return None
    both = answers(first, second)
    gain = both.groupby("episode")["gain"].mean()
    order = gain.sort_values(kind="stable")
    ways = [
        (order[order > 0].index[::-1][:EACH_WAY], first.name),
        (order[order < 0].index[:EACH_WAY], second.name),
    ]
    picked = [(int(e), f"better by {name}") for episodes, name in ways for e in episodes]
    sentence = (
        f"{first.name} is ahead in {int((gain > 0).sum()):,} of {len(gain):,} episodes, {second.name} in {int((gain < 0).sum()):,}; "
        f"in {int((gain == 0).sum()):,} they are level."
    )
    if not picked:
        return Disagreements(first, second, sentence, [])
    experiment = first.first
    test = pd.read_parquet(experiment.file("data/prepared/test.parquet"))
    table = pd.read_parquet(experiment.file("data/prepared/classes.parquet"))
    examples = pictures.read(experiment.file(f"data/prepared/{pictures.file(experiment.meta)}"))
    cards = []
    for episode, place in picked:
        line = test.loc[test["episode"] == episode].iloc[0]
        said = both[both["episode"] == episode].rename(columns={"two": "before", "one": "after"})
        cards.append(gallery.card(experiment.meta, line, said, table, examples, place))
    return Disagreements(first, second, sentence, cards)
