"""Errors by class: the hardest classes and groups, and the pairs of classes that are confused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from episodic.core.episode_size import stack_lists
from tasks.reports.kit import wording
from tasks.reports.kit.examples import ExampleCollector, SpriteSheet, TextList, build_sheet
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import (
    ReportSection,
    Table,
    build_dot_figure,
    build_score_dot,
    compute_chance_level,
)
from tasks.reports.run import sentences
from tasks.reports.run.facts import (
    measure_groups,
    rank_hardest_classes,
    read_confused_pairs,
    summarize_classes,
)

DRAWN, LISTED = 10, 50
"""Number of classes or groups drawn, and number of classes or pairs listed in a table."""

WITH_EXAMPLES, PAIRS_WITH_EXAMPLES, EXAMPLES = 6, 8, 4
"""Hard classes and confused pairs shown with examples, and the number of examples per class."""


@dataclass(frozen=True)
class Confusion:
    """Two classes that are confused, with their examples.

    Attributes:
        first: Name of the first class.
        second: Name of the second class.
        text: The number of confusions, as text.
        first_cells: Cells of the first class on the sheet.
        second_cells: Cells of the second class.
        score: Accuracy of the first class, as text; may be empty.
    """

    first: str
    second: str
    text: str
    first_cells: list[int]
    second_cells: list[int]
    score: str = ""


@dataclass(frozen=True)
class Confusions:
    """Confusions and the sheet with their examples."""

    sheet: SpriteSheet | TextList
    rows: list[Confusion]


def name_class(results: Results, row: int) -> str:
    """Return the name of a class, given its row in classes.parquet."""
    entry = results.dataset_classes.iloc[row]
    return wording.format_class_name(entry["class"], entry["group"])


# --- hardest classes and groups ----------------------------------------------------------------


def build_class_section(results: Results) -> ReportSection:
    """Build the section with the hardest classes."""
    classes = rank_hardest_classes(results)
    sentence = sentences.describe_classes(summarize_classes(results))
    dots = []
    for row in classes.head(DRAWN).to_dict("records"):
        queries = wording.format_count(row["queries"], "query", "queries")
        detail = f"{queries} in {wording.format_count(row['episodes'], 'episode')}"
        name = wording.format_class_name(row["class"], row["group"])
        score = row["accuracy"], row["ci95"]
        dots.append(build_score_dot("accuracy", name, *score, detail, text_colour="text"))
    listed = classes.head(LISTED).to_dict("records")
    caption = "All test classes, the hardest first"
    if len(classes) > len(listed):
        caption = f"The {len(listed)} hardest classes"
    rows = [
        [
            row["class"],
            row["group"],
            *(f"{row[column]:,}" for column in ("episodes", "queries", "correct")),
            wording.format_estimate("accuracy", row["accuracy"], row["ci95"]),
        ]
        for row in listed
    ]
    head = ["class", "group", "episodes", "queries", "correct", "accuracy"]
    table = Table(caption, head, rows, frozenset({2, 3, 4, 5}))
    description = f"Accuracy of the {len(dots)} hardest classes with 95 % intervals. {sentence}"
    figure = build_dot_figure(
        "accuracy", "classes", dots, description, compute_chance_level(results)
    )
    notes = [sentences.CLASS_NOTE]
    return ReportSection("classes", "Hardest classes", sentence, [figure], notes, [table])


def build_group_sections(results: Results, most: int = DRAWN) -> list[ReportSection]:
    """Build the section with the hardest groups of classes; none if there is one group only.

    Args:
        results: The results of the run.
        most: Maximum number of groups drawn.
    """
    groups = measure_groups(results)
    if len(groups) < 2:
        return []
    sentence = sentences.describe_groups(groups)
    dots = []
    for group in groups[:most]:
        queries = wording.format_count(group.queries, "query", "queries")
        detail = f"{queries} of {wording.format_count(group.classes, 'class', 'classes')}"
        score = group.accuracy, group.ci95
        dots.append(build_score_dot("accuracy", group.name, *score, detail, text_colour="text"))
    rows = [
        [
            group.name,
            f"{group.classes:,}",
            f"{group.queries:,}",
            wording.format_estimate("accuracy", group.accuracy, group.ci95),
        ]
        for group in groups
    ]
    head = ["group", "classes", "queries", "accuracy"]
    table = Table("All groups, the hardest first", head, rows, frozenset({1, 2, 3}))
    description = f"Accuracy of the {len(dots)} hardest groups with 95 % intervals. {sentence}"
    figure = build_dot_figure(
        "accuracy", "groups", dots, description, compute_chance_level(results)
    )
    notes = [sentences.GROUP_NOTE]
    return [ReportSection("groups", "Hardest groups", sentence, [figure], notes, [table])]


def illustrate_hard_classes(results: Results) -> Confusions:
    """Return the hardest classes, each with the class that it is most often confused with.

    Confusions are counted over all predictions after adaptation.
    """
    table = results.dataset_classes.reset_index(drop=True)
    episodes = results.test.set_index("episode")["classes"]
    classes = stack_lists(episodes.reindex(results.predictions["episode"]))
    query = np.arange(len(classes))
    predictions = pd.DataFrame(
        {
            "truth": classes[query, results.predictions["label"]],
            "predicted": classes[query, results.predictions["after"]],
        }
    )
    is_error = predictions["truth"] != predictions["predicted"]
    errors = predictions[is_error].groupby("truth")["predicted"]
    rows = {
        key: row
        for row, key in enumerate(zip(table["class"], table["group"], strict=True))
        if table["split"][row] == "test"
    }
    collector, confusions = ExampleCollector(table, EXAMPLES), list[Confusion]()
    for hard in rank_hardest_classes(results).to_dict("records"):
        row = rows.get((hard["class"], hard["group"]))
        if len(confusions) == WITH_EXAMPLES or row is None or row not in errors.groups:
            continue
        counts = errors.get_group(row).value_counts()
        other = int(counts[counts == counts.max()].index.min())
        confusions.append(
            Confusion(
                first=name_class(results, row),
                second=name_class(results, other),
                text=f"{counts.max():,} of {wording.format_count(counts.sum(), 'error')}",
                first_cells=collector.add_class(row),
                second_cells=collector.add_class(other),
                score=wording.format_estimate("accuracy", hard["accuracy"], hard["ci95"]),
            )
        )
    return Confusions(build_sheet(results.examples, collector.indices), confusions)


# --- confused pairs ----------------------------------------------------------------------------


def build_pair_section(results: Results) -> ReportSection:
    """Build the section with the most confused pairs of classes."""
    pairs = read_confused_pairs(results)
    if not pairs:
        return ReportSection("pairs", "Confused pairs", sentences.NO_CONFUSION)
    first, second = (name_class(results, row) for row in (pairs[0].first, pairs[0].second))
    rows = [
        [
            name_class(results, pair.first),
            name_class(results, pair.second),
            f"{pair.confused:,} of {pair.queries:,}",
            f"{pair.episodes:,}",
            wording.format_decimal(pair.similarity),
        ]
        for pair in pairs[:LISTED]
    ]
    head = ["class", "other class", "confused", "episodes", "similarity"]
    table = Table("The most confused pairs", head, rows, frozenset({2, 3, 4}))
    sentence = sentences.describe_confused_pair(pairs[0], first, second)
    return ReportSection("pairs", "Confused pairs", sentence, [], [sentences.PAIR_NOTE], [table])


def illustrate_pairs(results: Results) -> Confusions:
    """Return the most confused pairs with examples of both classes."""
    collector, confusions = ExampleCollector(results.dataset_classes, EXAMPLES), []
    for pair in read_confused_pairs(results)[:PAIRS_WITH_EXAMPLES]:
        share = f"{pair.confused:,} of {wording.format_count(pair.queries, 'query', 'queries')}"
        confusions.append(
            Confusion(
                first=name_class(results, pair.first),
                second=name_class(results, pair.second),
                text=f"{share}, cosine {wording.format_decimal(pair.similarity)}",
                first_cells=collector.add_class(pair.first),
                second_cells=collector.add_class(pair.second),
            )
        )
    return Confusions(build_sheet(results.examples, collector.indices), confusions)
