"""Two configurations compared closely: by group of classes and by episode."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from episodic.core.statistics import mean_ci95
from tasks.reports.comparison import sentences
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.comparison.style import format_difference
from tasks.reports.kit import charts, gallery, wording
from tasks.reports.kit.examples import find_file_name, read_examples
from tasks.reports.kit.section import Figure, ReportSection

PER_CONFIGURATION = 2
"""Number of episodes shown per configuration: those in which it is furthest ahead."""


def choose_pair(protocol: Protocol) -> tuple[Configuration, Configuration] | None:
    """Return the best configuration and the baseline, or the second if the best is the baseline.

    Returns None for a single configuration.
    """
    if len(protocol.configurations) == 1:
        return None
    if protocol.best is protocol.baseline:
        return protocol.best, protocol.configurations[1]
    return protocol.best, protocol.baseline


def compare_predictions(first: Configuration, second: Configuration) -> pd.DataFrame:
    """Compare the predictions of the first seeds of two configurations.

    Returns:
        One row per query: `episode`, `image`, `label`, `first` and `second` (the predictions), and
        `gain` (1 if only the first is correct, -1 if only the second is).
    """
    predictions, others = (
        pd.read_parquet(c.first.file("reports/scores/answers.parquet")) for c in (first, second)
    )
    both = predictions[["episode", "image", "label"]].assign(
        first=predictions["after"].to_numpy(), second=others["after"].to_numpy()
    )
    is_correct, other_is_correct = both["first"] == both["label"], both["second"] == both["label"]
    return both.assign(gain=is_correct.astype(int) - other_is_correct.astype(int))


# --- by group ----------------------------------------------------------------------------------


def build_group_section(protocol: Protocol, suffix: str) -> ReportSection | None:
    """Build the section with the difference by group of classes, such as an alphabet.

    Returns None if there are no two configurations or no groups.
    """
    pair = choose_pair(protocol)
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
            detail=wording.format_count(row["episodes"], "episode"),
            colour="model" if row["mean"] >= 0 else "wrong",
            text_colour="baseline-text",
        )
        for row in differences.to_dict("records")
    ]
    best, worst = ((dot.name, dot.text) for dot in (dots[0], dots[-1]))
    sentence = sentences.describe_group_differences(first.name, second.name, best, worst)
    ends = np.array([end for dot in dots for end in (dot.low, dot.high)])
    limits = min(0.0, np.nanmin(ends)) - 0.01, max(0.0, np.nanmax(ends)) + 0.01
    axis = alt.Axis(title=f"{first.name} minus {second.name}", format="+.0%", tickCount=5)
    spec = charts.build_page_spec(
        charts.draw_dots(dots, axis, limits, rule=0.0), charts.ROW_HEIGHT * len(dots)
    )
    description = "Difference in accuracy by group with 95 % intervals over episodes."
    name = f"groups{suffix}"
    figure = Figure(name, spec, f"{description} {sentence}")
    return ReportSection(name, "Differences by group", sentence, [figure], [sentences.GROUP_NOTE])


def compare_groups(first: Configuration, second: Configuration) -> pd.DataFrame:
    """Compare the accuracy of two configurations by group, the largest difference first.

    Returns:
        `group`, `mean` (accuracy of the first minus the second), `ci95` and `episodes`.
    """
    predictions, experiment = compare_predictions(first, second), first.first
    test = pd.read_parquet(
        experiment.file("data/prepared/test.parquet"), columns=["episode", "classes"]
    )
    classes = pd.read_parquet(experiment.file("data/prepared/classes.parquet"), columns=["group"])
    groups = classes["group"].to_numpy()
    episodes = dict(zip(test["episode"], test["classes"], strict=True))
    predictions["group"] = [
        groups[int(episodes[episode][label])]
        for episode, label in zip(predictions["episode"], predictions["label"], strict=True)
    ]
    gains = predictions.groupby(["group", "episode"])["gain"].mean().reset_index()
    rows = [
        (group, *mean_ci95(of_group.to_numpy()), len(of_group))
        for group, of_group in gains.groupby("group")["gain"]
    ]
    table = pd.DataFrame(rows, columns=["group", "mean", "ci95", "episodes"])
    return table.sort_values(["mean", "group"], ascending=[False, True], ignore_index=True)


# --- by episode --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disagreements:
    """The episodes on which two checkpoints disagree most.

    Attributes:
        first: Name of one configuration.
        second: Name of the other one.
        sentence: The number of episodes in which each is better.
        cards: The episodes; `after` are the predictions of the first, `before` of the second.
    """

    first: str
    second: str
    sentence: str
    cards: list[gallery.EpisodeCard]


def find_disagreements(protocol: Protocol) -> Disagreements | None:
    """Find the episodes on which the first seeds of two configurations disagree most.

    Returns None for regression or a single configuration.
    """
    pair = choose_pair(protocol)
    if pair is None or not protocol.is_accuracy:
        return None
    first, second = pair
    predictions = compare_predictions(first, second)
    gains = predictions.groupby("episode")["gain"].mean()
    order = gains.sort_values(kind="stable")
    selections = [
        (order[order > 0].index[::-1][:PER_CONFIGURATION], first.name),
        (order[order < 0].index[:PER_CONFIGURATION], second.name),
    ]
    selected = [(int(e), f"{name} is better") for episodes, name in selections for e in episodes]
    sentence = sentences.describe_disagreements(first.name, second.name, gains.to_numpy())
    cards = _build_cards(first, predictions, selected) if selected else []
    return Disagreements(first.name, second.name, sentence, cards)


def _build_cards(
    configuration: Configuration, predictions: pd.DataFrame, selected: list[tuple[int, str]]
) -> list[gallery.EpisodeCard]:
    experiment = configuration.first
    test = pd.read_parquet(experiment.file("data/prepared/test.parquet"))
    classes = pd.read_parquet(experiment.file("data/prepared/classes.parquet"))
    path = f"data/prepared/{find_file_name(experiment.meta)}"
    examples = read_examples(experiment.file(path))
    predictions = predictions.rename(columns={"second": "before", "first": "after"})
    cards = []
    for episode, rank in selected:
        fixed = test.loc[test["episode"] == episode].iloc[0]
        of_episode = predictions[predictions["episode"] == episode]
        cards.append(
            gallery.build_card(experiment.meta, fixed, of_episode, classes, examples, rank)
        )
    return cards
