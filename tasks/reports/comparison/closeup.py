"""Two configurations compared closely: by group of classes and by episode."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.comparison import sentences
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.comparison.style import format_difference
from tasks.reports.kit import charts, gallery, pictures, wording
from tasks.reports.kit.section import Figure, Section

PER_SIDE = 2
"""Episodes shown in which one of the two is most ahead, and as many for the other."""


def choose_two(protocol: Protocol) -> tuple[Configuration, Configuration] | None:
    """Return the best configuration and the baseline, or the second if the best is the baseline.

    Returns None for a single configuration.
    """
    if len(protocol.configurations) == 1:
        return None
    if protocol.best is protocol.baseline:
        return protocol.best, protocol.configurations[1]
    return protocol.best, protocol.baseline


def compare_answers(first: Configuration, second: Configuration) -> pd.DataFrame:
    """Compare the answers of the first seeds of two configurations.

    Returns:
        One row per query: `episode`, `image`, `label`, `first` and `second` (the answers), and
        `gain` (1 if only the first is correct, -1 if only the second is).
    """
    answers, others = (
        pd.read_parquet(c.first.file("reports/scores/answers.parquet")) for c in (first, second)
    )
    both = answers[["episode", "image", "label"]].assign(
        first=answers["after"].to_numpy(), second=others["after"].to_numpy()
    )
    right, other_right = both["first"] == both["label"], both["second"] == both["label"]
    return both.assign(gain=right.astype(int) - other_right.astype(int))


# --- by group ----------------------------------------------------------------------------------


def group_section(protocol: Protocol, suffix: str) -> Section | None:
    """Build the section with the difference by group of classes, such as an alphabet.

    Returns None if there are no two configurations or no groups.
    """
    pair = choose_two(protocol)
    if pair is None:
        return None
    first, second = pair
    if first.first.classes.empty or not first.first.classes["group"].astype(bool).any():
        return None
    differences = compare_groups(first, second)
    if len(differences) < 2:
        return None
    dots = [
        charts.Dot(
            name=row["group"],
            value=row["mean"],
            low=row["mean"] - row["ci95"],
            high=row["mean"] + row["ci95"],
            text=format_difference(protocol, row["mean"]),
            detail=wording.count(row["episodes"], "episode"),
            colour="model" if row["mean"] >= 0 else "wrong",
            text_colour="baseline-text",
        )
        for row in differences.to_dict("records")
    ]
    best, worst = ((dot.name, dot.text) for dot in (dots[0], dots[-1]))
    sentence = sentences.group_differences(first.name, second.name, best, worst)
    ends = np.array([end for dot in dots for end in (dot.low, dot.high)])
    limits = min(0.0, np.nanmin(ends)) - 0.01, max(0.0, np.nanmax(ends)) + 0.01
    axis = alt.Axis(title=f"{first.name} minus {second.name}", format="+.0%", tickCount=5)
    spec = charts.page_spec(
        charts.dots(dots, axis, limits, rule=0.0), charts.ROW_HEIGHT * len(dots)
    )
    description = "Difference in accuracy by group with 95 % intervals over episodes."
    name = f"groups{suffix}"
    figure = Figure(name, spec, f"{description} {sentence}")
    return Section(name, "Differences by group", sentence, [figure], [sentences.GROUP_NOTE])


def compare_groups(first: Configuration, second: Configuration) -> pd.DataFrame:
    """Compare the accuracy of two configurations by group, the largest difference first.

    Returns:
        `group`, `mean` (accuracy of the first minus the second), `ci95` and `episodes`.
    """
    answers, experiment = compare_answers(first, second), first.first
    test = pd.read_parquet(
        experiment.file("data/prepared/test.parquet"), columns=["episode", "classes"]
    )
    classes = pd.read_parquet(experiment.file("data/prepared/classes.parquet"), columns=["group"])
    groups = classes["group"].to_numpy()
    episodes = dict(zip(test["episode"], test["classes"], strict=True))
    answers["group"] = [
        groups[int(episodes[episode][label])]
        for episode, label in zip(answers["episode"], answers["label"], strict=True)
    ]
    gains = answers.groupby(["group", "episode"])["gain"].mean().reset_index()
    table = gains.groupby("group")["gain"].agg(["mean", "std", "size"]).reset_index()
    table["ci95"] = 1.96 * table["std"] / np.sqrt(table["size"])
    table = table.rename(columns={"size": "episodes"})[["group", "mean", "ci95", "episodes"]]
    return table.sort_values(["mean", "group"], ascending=[False, True], ignore_index=True)


# --- by episode --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disagreements:
    """The episodes on which two checkpoints disagree most.

    Attributes:
        first: Name of one configuration.
        second: Name of the other one.
        sentence: In how many episodes each is better.
        cards: Episodes; `after` are the answers of the first, `before` those of the second.
    """

    first: str
    second: str
    sentence: str
    cards: list[gallery.Card]


def find_disagreements(protocol: Protocol) -> Disagreements | None:
    """Find the episodes on which the first seeds of two configurations disagree most.

    Returns None for regression or a single configuration.
    """
    pair = choose_two(protocol)
    if pair is None or not protocol.is_accuracy:
        return None
    first, second = pair
    answers = compare_answers(first, second)
    gains = answers.groupby("episode")["gain"].mean()
    order = gains.sort_values(kind="stable")
    sides = [
        (order[order > 0].index[::-1][:PER_SIDE], first.name),
        (order[order < 0].index[:PER_SIDE], second.name),
    ]
    selected = [(int(e), f"{name} is better") for episodes, name in sides for e in episodes]
    sentence = sentences.disagreements(first.name, second.name, gains.to_numpy())
    cards = _build_cards(first, answers, selected) if selected else []
    return Disagreements(first.name, second.name, sentence, cards)


def _build_cards(
    configuration: Configuration, answers: pd.DataFrame, selected: list[tuple[int, str]]
) -> list[gallery.Card]:
    experiment = configuration.first
    test = pd.read_parquet(experiment.file("data/prepared/test.parquet"))
    classes = pd.read_parquet(experiment.file("data/prepared/classes.parquet"))
    path = f"data/prepared/{pictures.file_name(experiment.meta)}"
    examples = pictures.read(experiment.file(path))
    answers = answers.rename(columns={"second": "before", "first": "after"})
    cards = []
    for episode, rank in selected:
        row = test.loc[test["episode"] == episode].iloc[0]
        own = answers[answers["episode"] == episode]
        cards.append(gallery.build_card(experiment.meta, row, own, classes, examples, rank))
    return cards
