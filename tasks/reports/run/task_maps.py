"""The tasks page: maps of the test classes and of the test episodes."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import maps, wording
from tasks.reports.kit.examples import encode_thumbnails, find_first_examples
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import ReportSection, Table, build_figure
from tasks.reports.run import sentences
from tasks.reports.run.classes import LISTED, build_group_sections, build_pair_section, name_class
from tasks.reports.run.difficulty import build_difficulty_section
from tasks.reports.run.facts import (
    name_task_parameters,
    read_correlation,
    summarize_class_map,
    summarize_episode_map,
)

MAP_WIDTH, MAP_HEIGHT = 720, 420
"""Usual size of a map in pixels; images do not overlap at this size."""

MAX_IMAGES = 600
"""Maximum number of classes whose image is embedded in the page."""

MAX_GROUPS = 30
"""Maximum number of groups drawn: the hardest."""

Key = list[tuple[str, str]]
"""A legend: colours of PALETTE and their meaning."""


def build_sections(results: Results) -> tuple[list[ReportSection], dict[str, Key]]:
    """Build the sections of the tasks page and the legends of its maps by section name."""
    if results.kind == "regression":
        parameters, key = map_parameters(results)
        return [parameters, build_difficulty_section(results)], {parameters.name: key}
    classes, class_key = map_classes(results)
    keys = {classes.name: class_key}
    sections = [classes, build_difficulty_section(results), build_pair_section(results)]
    if not results.has_one_set_of_classes:
        episodes, keys["episodes-map"] = map_episodes(results)
        sections.append(episodes)
    return [*sections, *build_group_sections(results, MAX_GROUPS)], keys


# --- test classes ------------------------------------------------------------------------------


def map_classes(results: Results) -> tuple[ReportSection, Key]:
    """Build the map of the test classes in feature space and its legend."""
    facts, space = summarize_class_map(results), results.space
    colours, key = _colour_groups(space["group"])
    points = _class_points(results, colours)
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("accuracy:N"),
        alt.Tooltip("neighbour:N", title="most similar"),
    ]
    examples = find_first_examples(results.dataset_classes)[space["row"]]
    if isinstance(results.examples, list):
        points["example"] = [results.examples[index] for index in examples]
        tooltip.append(alt.Tooltip("example:N"))
        places = select_apart(points, 130, 26)
        labels = points.iloc[places][["x", "y"]].assign(label=space["class"].iloc[places])
    else:
        places = select_apart(points, maps.IMAGE_SIZE + 8, maps.IMAGE_SIZE + 8)
        embedded = sorted({*range(min(len(points), MAX_IMAGES)), *places})
        thumbnails = encode_thumbnails(results.examples, examples[embedded].tolist())
        image = dict(zip(embedded, thumbnails, strict=True))
        points["image"] = [image.get(i, "") for i in range(len(points))]
        tooltip.append(alt.Tooltip("image:N"))
        labels = points.iloc[places][["x", "y"]].assign(image=points["image"].iloc[places])
    first, second = (wording.format_percent(share, 0) for share in facts.variance)
    titles = (f"first principal axis ({first} of the variance)", f"second ({second})")
    in_front = points.iloc[np.argsort(points["colour"] != "baseline", kind="stable")]
    chart = maps.draw_scatter_map(in_front, labels, titles, tooltip, "group" if colours else "")
    sentence = sentences.describe_class_map(
        facts, *(name_class(results, row) for row in facts.closest)
    )
    description = (
        f"Map of {wording.format_count(facts.classes, 'test class', 'test classes')} by the "
        f"model's features; {len(labels)} have a label."
    )
    notes = [sentences.CLASS_MAP_NOTE]
    if results.config.get("ensemble", 1) > 1:
        notes.append("The features are only those of the best checkpoint.")
    section = ReportSection(
        "map",
        "Map of the test classes",
        sentence,
        [build_figure("map", chart, description, sentence, MAP_HEIGHT)],
        notes,
        [_neighbour_table(results, points)],
    )
    return section, key


def _colour_groups(groups: pd.Series) -> tuple[dict[str, str], Key]:
    """Return the colours of the largest groups and their legend; nothing for one group."""
    sizes = groups.value_counts(sort=False)
    if len(sizes) < 2:
        return {}, []
    largest = sorted(sizes.index, key=lambda name: (-sizes[name], name))[: len(maps.SERIES_COLOURS)]
    colours = dict(zip(largest, maps.SERIES_COLOURS, strict=False))
    key = [(colour, name) for name, colour in colours.items()]
    if len(sizes) > len(largest):
        key.append(("baseline", wording.format_count(len(sizes) - len(largest), "other group")))
    return colours, key


def _class_points(results: Results, colours: dict[str, str]) -> pd.DataFrame:
    keys = ["class", "group"]
    space = results.space.merge(results.classes[[*keys, "accuracy"]], on=keys, how="left")
    default = "baseline" if colours else "model"
    return pd.DataFrame(
        {
            "x": space["x"],
            "y": space["y"],
            "name": [name_class(results, row) for row in space["row"]],
            "group": space["group"],
            "colour": [colours.get(group, default) for group in space["group"]],
            "accuracy": [
                "not in any episode" if np.isnan(accuracy) else wording.format_percent(accuracy)
                for accuracy in space["accuracy"]
            ],
            "neighbour": [
                f"{name_class(results, row)}, {wording.format_decimal(similarity)}"
                for row, similarity in zip(space["nearest"], space["similarity"], strict=True)
            ],
        }
    )


def _neighbour_table(results: Results, points: pd.DataFrame) -> Table:
    space = results.space
    order = np.argsort(-space["similarity"].to_numpy(), kind="stable")[:LISTED]
    rows = [
        [
            points["name"].iloc[i],
            points["accuracy"].iloc[i],
            name_class(results, space["nearest"].iloc[i]),
            wording.format_decimal(space["similarity"].iloc[i]),
        ]
        for i in order
    ]
    head = ["class", "accuracy", "most similar class", "similarity"]
    return Table("The classes with the most similar neighbours", head, rows, frozenset({1, 3}))


def select_apart(points: pd.DataFrame, width: float, height: float) -> list[int]:
    """Select points, in their order, whose labels do not overlap on the map.

    Args:
        points: `x` and `y`.
        width: Width of a label in pixels.
        height: Height of a label in pixels.
    """
    across, up = (
        (points[c] - points[c].min()) / max(float(points[c].max() - points[c].min()), 1e-9)
        for c in ("x", "y")
    )
    places = np.stack([across * MAP_WIDTH / width, up * MAP_HEIGHT / height], 1)
    selected: list[int] = []
    for i, place in enumerate(places):
        if not selected or (np.abs(places[selected] - place).max(1) >= 1).all():
            selected.append(i)
    return selected


# --- test episodes -----------------------------------------------------------------------------


def map_episodes(results: Results) -> tuple[ReportSection, Key]:
    """Build the map of the test episodes on the axes of the map of the test classes."""
    tasks, facts = results.tasks, summarize_episode_map(results)
    classes = results.test.set_index("episode")["classes"][tasks["episode"]]
    names = [", ".join(name_class(results, int(row)) for row in rows) for rows in classes]
    points, key = _colour_by_score(results.score, tasks.assign(classes=names))
    tooltip = [
        alt.Tooltip("episode:Q"),
        alt.Tooltip("label:N", title="accuracy"),
        alt.Tooltip("similarity:Q", format=".2f", title="similarity"),
        alt.Tooltip("classes:N"),
    ]
    titles = "first principal axis", "second"
    chart = maps.draw_scatter_map(points, pd.DataFrame(), titles, tooltip)
    sentence = sentences.describe_episode_map(facts)
    episodes = wording.format_count(facts.episodes, "test episode")
    description = f"Map of {episodes}, coloured by accuracy."
    figure = build_figure("episodes-map", chart, description, sentence, 320)
    notes = [sentences.EPISODE_MAP_NOTE]
    return ReportSection("episodes-map", "Map of the test episodes", sentence, [figure], notes), key


def map_parameters(results: Results) -> tuple[ReportSection, Key]:
    """Build the map of the test episodes of a regression by their two parameters."""
    across, up = name_task_parameters(results)
    tasks = results.tasks[np.isfinite(results.tasks["mse"])]
    points, key = _colour_by_score(results.score, tasks)
    titles = sentences.name_parameter(across), sentences.name_parameter(up)
    tooltip = [
        alt.Tooltip("episode:Q"),
        alt.Tooltip("label:N", title=wording.name_score(results.score)),
        alt.Tooltip("y:Q", format=".2f", title=up),
        alt.Tooltip("x:Q", format=".2f", title=across),
    ]
    chart = maps.draw_scatter_map(points, pd.DataFrame(), titles, tooltip, tick_labels=True)
    correlations = [(name, read_correlation(results, name)) for name in (up, across)]
    sentence = sentences.describe_parameter_map(correlations)
    episodes = wording.format_count(len(tasks), "test episode")
    description = f"Map of {episodes} by {up} and {across}, coloured by error."
    figure = build_figure("episodes-map", chart, description, sentence, 320)
    notes = [sentences.explain_bootstrap(results.score, len(tasks))]
    return ReportSection("episodes-map", "Map of the test episodes", sentence, [figure], notes), key


def _colour_by_score(score: str, tasks: pd.DataFrame) -> tuple[pd.DataFrame, Key]:
    """Colour the worst tenth, the rest of the worse half, and the better half.

    The worst episodes come last so that they are drawn on top.
    """
    values, show = tasks[score].to_numpy(float), wording.choose_formatter(score)
    error = -values if score == "accuracy" else values
    rank = np.where(error >= np.quantile(error, 0.9), 2, error > np.quantile(error, 0.5))
    key: Key = []
    colours = np.array(["model", "early", "wrong"])
    for i, colour in enumerate(colours.tolist()):
        in_rank = values[rank == i]
        if len(in_rank):
            low, high = show(in_rank.min()), show(in_rank.max())
            key.append((colour, f"{low} to {high}" if in_rank.min() < in_rank.max() else low))
    points = tasks.assign(colour=colours[rank], label=[show(value) for value in values])
    return points.iloc[np.argsort(rank, kind="stable")], key
