"""The page 'The tasks': its sections, and the maps of the test classes and episodes (what makes one hard: `hardness`)."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import maps, pictures, wording
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Section, Table, axis_title, figure
from tasks.reports.run import confusions
from tasks.reports.run.hardness import (
    SAID,
    beyond_chance,
    bootstrap,
    class_name,
    confused,
    correlation,
    cosine,
    difficulty,
    parameters,
)

WIDE, HIGH = 720, 420
"""Pixels of a map as it is mostly seen, by which pictures are kept apart."""

MOST = 600
"""Classes whose picture is in the page at most."""

GROUPS = 30
"""Groups shown at most, the hardest."""


Key = list[tuple[str, str]]
"""Colours of PALETTE and what they stand for."""


def sections(results: Results) -> tuple[list[Section], dict[str, Key]]:
    """What the page shows, and the keys of its maps by the name of their section."""
    if results.kind == "regression":
        drawn, key = map_of_parameters(results)
        return [drawn, difficulty(results)], {drawn.name: key}
    (classes, of_classes), (episodes, of_episodes) = (
        map_of_classes(results),
        map_of_episodes(results),
    )
    found = [
        classes,
        difficulty(results),
        confused(results),
        episodes,
        *confusions.groups(results, GROUPS),
    ]
    return found, {classes.name: of_classes, episodes.name: of_episodes}


def map_of_classes(results: Results) -> tuple[Section, Key]:
    space = results.space.merge(
        results.classes[["class", "group", "accuracy"]], on=["class", "group"], how="left"
    )
    offsets = (results.table["count"].cumsum() - results.table["count"]).to_numpy()
    sizes = space["group"].value_counts(sort=False)
    large = (
        sorted(sizes.index, key=lambda name: (-sizes[name], name))[: len(maps.SERIES)]
        if len(sizes) > 1
        else []
    )
    ink = dict(zip(large, maps.SERIES, strict=False))
    points = pd.DataFrame(
        {
            "x": space["x"],
            "y": space["y"],
            "name": [class_name(results, row) for row in space["row"]],
            "group": space["group"],
            "colour": [
                ink.get(group, "baseline" if large else "model") for group in space["group"]
            ],
            "accuracy": [
                "not in any episode" if np.isnan(a) else wording.percent(a)
                for a in space["accuracy"]
            ],
            "nearest": [
                f"{class_name(results, row)}, {cosine(s)}"
                for row, s in zip(space["nearest"], space["similarity"], strict=True)
            ],
        }
    )
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("accuracy:N"),
        alt.Tooltip("nearest:N", title="most alike"),
    ]
    firsts = [int(offsets[row]) for row in space["row"]]
    if isinstance(results.examples, list):
        points["as in"] = [results.examples[row] for row in firsts]
        tooltip.append(alt.Tooltip("as in:N"))
        places = _apart(points, 130, 26)
        shown = points.iloc[places][["x", "y"]].assign(said=space["class"].iloc[places])
    else:
        places = _apart(points, maps.PICTURE + 8, maps.PICTURE + 8)
        kept = sorted({*range(min(len(points), MOST)), *places})
        small = dict(
            zip(kept, pictures.small(results.examples, [firsts[i] for i in kept]), strict=True)
        )
        points["image"] = [small.get(i, "") for i in range(len(points))]
        tooltip.append(alt.Tooltip("image:N"))
        shown = points.iloc[places][["x", "y"]].assign(picture=points["image"].iloc[places])
    points = points.iloc[np.argsort(points["colour"] != "baseline", kind="stable")]
    first, second = (results.metrics[f"tasks.map.{axis}"] for axis in ("first", "second"))
    titles = (
        f"first axis, {wording.percent(first, 0)} of the variance",
        f"second axis, {wording.percent(second, 0)}",
    )
    closest = space.sort_values(["similarity", "row"], ascending=[False, True]).iloc[0]
    alike = f"{class_name(results, int(closest['row']))} and {class_name(results, int(closest['nearest']))}"
    sentence = (
        f"Two axes hold {wording.percent(first + second, 0)} of what sets the {wording.count(len(space), 'test class', 'test classes')} apart; "
        f"the two most alike are {alike} (cosine {cosine(closest['similarity'])})."
    )
    notes = [
        "A class stands at the mean of the features of its examples, before adaptation, on the two principal axes of all test classes: "
        "what the axes leave out does not show, so that neighbours here may be far apart. Alike: the cosine of two means, seen from the "
        "mean of all."
    ]
    if results.config.get("ensemble", 1) > 1:
        notes.append("Features are those of the best checkpoint alone.")
    told = f"Map of {wording.count(len(space), 'test class', 'test classes')} by the model's features, {len(shown)} of them with an example."
    drawn = figure(
        "map",
        maps.atlas(points, shown, titles, tooltip, "group" if large else ""),
        told,
        sentence,
        HIGH,
    )
    key: Key = [(ink[group], group) for group in large]
    if len(sizes) > len(large) > 0:
        key.append(("baseline", wording.count(len(sizes) - len(large), "other group")))
    cells = [
        [line["name"], line["accuracy"], line["nearest"].rpartition(", ")[0], cosine(s)]
        for line, s in zip(points.sort_index().to_dict("records"), space["similarity"], strict=True)
    ]
    order = np.argsort(-space["similarity"].to_numpy(), kind="stable")[: confusions.LISTED]
    table = Table(
        "The classes that another one is most like",
        ["class", "accuracy", "most alike", "cosine"],
        [cells[i] for i in order],
        frozenset({1, 3}),
    )
    return Section("map", "The classes on a map", sentence, [drawn], notes, [table]), key


def _apart(points: pd.DataFrame, width: float, height: float) -> list[int]:
    """Places, in the order of the points, of which no two are nearer on the map than a picture is large."""
    across, up = (
        (points[c] - points[c].min()) / max(float(points[c].max() - points[c].min()), 1e-9)
        for c in ("x", "y")
    )
    places = np.stack([across * WIDE / width, up * HIGH / height], 1)
    kept: list[int] = []
    for i, place in enumerate(places):
        if not kept or (np.abs(places[kept] - place).max(1) >= 1).all():
            kept.append(i)
    return kept


def _by_score(results: Results, tasks: pd.DataFrame) -> tuple[pd.DataFrame, Key]:
    """Each task's colour, the worst ones last, and what the colours stand for: the worst tenth, the other half that is worse, the rest."""
    score, accuracy = tasks[results.score].to_numpy(float), results.score == "accuracy"
    shown = wording.percent if accuracy else wording.number
    bad = -score if accuracy else score
    worst, middle = (np.quantile(bad, q) for q in (0.9, 0.5))
    rank = np.where(bad >= worst, 2, np.where(bad > middle, 1, 0))
    key: Key = []
    for i, colour in enumerate(("model", "early", "wrong")):
        values = score[rank == i]
        if len(values):
            key.append(
                (
                    colour,
                    f"{shown(values.min())} to {shown(values.max())}"
                    if values.min() < values.max()
                    else shown(values.min()),
                )
            )
    look = tasks.assign(
        colour=np.array(["model", "early", "wrong"])[rank], said=[shown(s) for s in score]
    )
    return look.iloc[np.argsort(rank, kind="stable")], key


def map_of_episodes(results: Results) -> tuple[Section, Key]:
    tasks = results.tasks
    names = [
        ", ".join(class_name(results, int(row)) for row in classes)
        for classes in results.test.set_index("episode")["classes"][tasks["episode"]]
    ]
    points, key = _by_score(results, tasks.assign(classes=names))
    tooltip = [
        alt.Tooltip("episode:Q"),
        alt.Tooltip("said:N", title="accuracy"),
        alt.Tooltip("similarity:Q", format=".2f", title="alike"),
        alt.Tooltip("classes:N"),
    ]
    low, high = tasks["accuracy"].min(), tasks["accuracy"].max()
    at = tasks.sort_values(["accuracy", "episode"]).iloc[0]
    sentence = (
        f"{wording.count(len(tasks), 'test episode')} have between {wording.percent(low)} and {wording.percent(high)}; the worst is episode "
        f"{int(at['episode'])}, whose classes are alike by {cosine(at['similarity'])} on average."
    )
    notes = [
        "An episode stands at the mean of its classes, on the axes of the map above: what unites its classes, not how far apart they are."
    ]
    chart = maps.atlas(points, pd.DataFrame(), ("first axis", "second axis"), tooltip)
    drawn = figure(
        "episodes-map",
        chart,
        f"Map of {wording.count(len(tasks), 'test episode')}, coloured by accuracy.",
        sentence,
        320,
    )
    return Section("episodes-map", "The episodes on the map", sentence, [drawn], notes), key


def map_of_parameters(results: Results) -> tuple[Section, Key]:
    """Regression: episodes by the two parameters that describe them."""
    across, up = parameters(results)
    tasks = results.tasks[np.isfinite(results.tasks["mse"])]
    points, key = _by_score(results, tasks)
    tooltip = [
        alt.Tooltip("episode:Q"),
        alt.Tooltip("said:N", title=axis_title(results)),
        alt.Tooltip("y:Q", format=".2f", title=up),
        alt.Tooltip("x:Q", format=".2f", title=across),
    ]
    chart = maps.atlas(
        points, pd.DataFrame(), (SAID.get(across, across), SAID.get(up, up)), tooltip, numbers=True
    )
    told = f"Map of {wording.count(len(tasks), 'test episode')} by {up} and {across}, coloured by error."
    sentence = _go_with(results, (up, across))
    drawn = figure("episodes-map", chart, told, sentence, 320)
    return Section(
        "episodes-map", "The episodes on a map", sentence, [drawn], [bootstrap(results, len(tasks))]
    ), key


def _go_with(results: Results, names: tuple[str, str]) -> str:
    """What errors go with, as far as it is beyond chance."""
    found = [name for name in names if beyond_chance(results, name)]
    said = {name: f"{name} (rank correlation {correlation(results, name)})" for name in names}
    if not found:
        return f"Nothing was found that errors go with: neither the {said[names[0]]} nor the {said[names[1]]}."
    others = "".join(
        f"; of the {said[name]} no such thing was found" for name in names if name not in found
    )
    return f"Errors go with the {' and with the '.join(said[name] for name in found)}{others}."
