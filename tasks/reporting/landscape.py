"""The page 'The tasks': a map of the test classes and episodes, and what makes an episode hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks import maps
from tasks.reporting import mistakes, pictures, words
from tasks.reporting.parts import Section, Table, axis, axis_title, domain, figure
from tasks.reporting.pictures import Lines, Sheet
from tasks.reporting.results import Results

WIDE, HIGH = 720, 420
"""Pixels of a map as it is mostly seen, by which pictures are kept apart."""

MOST = 600
"""Classes whose picture is in the page at most."""

GROUPS, PAIRS, DRAWINGS = 30, 8, 4


@dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other; the places of their drawings on `Pairs.sheet`."""

    first: str
    second: str
    share: str
    alike: str
    first_drawings: list[int]
    second_drawings: list[int]


@dataclass(frozen=True)
class Pairs:
    sheet: Sheet | Lines
    rows: list[Pair]


Key = list[tuple[str, str]]
"""Colours of PALETTE and what they stand for."""


def sections(results: Results) -> tuple[list[Section], dict[str, Key]]:
    """What the page shows, and the keys of its maps by the name of their section."""
    if results.kind == "regression":
        drawn, key = map_of_parameters(results)
        return [drawn, difficulty(results)], {drawn.name: key}
    (classes, of_classes), (episodes, of_episodes) = map_of_classes(results), map_of_episodes(results)
    found = [classes, difficulty(results), confused(results), episodes, *mistakes.groups(results, GROUPS)]
    return found, {classes.name: of_classes, episodes.name: of_episodes}


def _name(results: Results, row: int) -> str:
    line = results.table.iloc[row]
    return words.class_name(line["class"], line["group"])


def map_of_classes(results: Results) -> tuple[Section, Key]:
    space = results.space.merge(results.classes[["class", "group", "accuracy"]], on=["class", "group"], how="left")
    offsets = (results.table["count"].cumsum() - results.table["count"]).to_numpy()
    sizes = space["group"].value_counts(sort=False)
    large = sorted(sizes.index, key=lambda name: (-sizes[name], name))[: len(maps.SERIES)] if len(sizes) > 1 else []
    ink = dict(zip(large, maps.SERIES, strict=False))
    points = pd.DataFrame(
        {
            "x": space["x"], "y": space["y"], "name": [_name(results, row) for row in space["row"]], "group": space["group"],
            "colour": [ink.get(group, "baseline" if large else "model") for group in space["group"]],
            "accuracy": ["not in any episode" if np.isnan(a) else words.percent(a) for a in space["accuracy"]],
            "nearest": [f"{_name(results, row)}, {_cosine(s)}" for row, s in zip(space["nearest"], space["similarity"], strict=True)],
        }
    )  # fmt: skip
    tooltip = [alt.Tooltip("name:N", title=" "), alt.Tooltip("accuracy:N"), alt.Tooltip("nearest:N", title="most alike")]
    firsts = [int(offsets[row]) for row in space["row"]]
    if isinstance(results.examples, list):
        points["as in"] = [results.examples[row] for row in firsts]
        tooltip.append(alt.Tooltip("as in:N"))
        places = _apart(points, 130, 26)
        shown = points.iloc[places][["x", "y"]].assign(said=space["class"].iloc[places])
    else:
        places = _apart(points, maps.PICTURE + 8, maps.PICTURE + 8)
        kept = sorted({*range(min(len(points), MOST)), *places})
        small = dict(zip(kept, pictures.small(results.examples, [firsts[i] for i in kept]), strict=True))
        points["image"] = [small.get(i, "") for i in range(len(points))]
        tooltip.append(alt.Tooltip("image:N"))
        shown = points.iloc[places][["x", "y"]].assign(picture=points["image"].iloc[places])
    points = points.iloc[np.argsort(points["colour"] != "baseline", kind="stable")]
    first, second = (results.metrics[f"tasks.map.{axis}"] for axis in ("first", "second"))
    titles = f"first axis, {words.percent(first, 0)} of the variance", f"second axis, {words.percent(second, 0)}"
    closest = space.sort_values(["similarity", "row"], ascending=[False, True]).iloc[0]
    alike = f"{_name(results, int(closest['row']))} and {_name(results, int(closest['nearest']))}"
    sentence = (
        f"Two axes hold {words.percent(first + second, 0)} of what sets the {words.count(len(space), 'test class', 'test classes')} apart; "
        f"the two most alike are {alike} (cosine {_cosine(closest['similarity'])})."
    )
    notes = [
        "A class stands at the mean of the features of its examples, before adaptation, on the two principal axes of all test classes: "
        "what the axes leave out does not show, so that neighbours here may be far apart. Alike: the cosine of two means, seen from the "
        "mean of all."
    ]
    if results.config.get("ensemble", 1) > 1:
        notes.append("Features are those of the best checkpoint alone.")
    told = f"Map of {words.count(len(space), 'test class', 'test classes')} by the model's features, {len(shown)} of them with an example."
    drawn = figure("map", maps.atlas(points, shown, titles, tooltip, "group" if large else ""), told, sentence, HIGH)
    key: Key = [(ink[group], group) for group in large]
    if len(sizes) > len(large) > 0:
        key.append(("baseline", words.count(len(sizes) - len(large), "other group")))
    cells = [
        [line["name"], line["accuracy"], line["nearest"].rpartition(", ")[0], _cosine(s)]
        for line, s in zip(points.sort_index().to_dict("records"), space["similarity"], strict=True)
    ]
    order = np.argsort(-space["similarity"].to_numpy(), kind="stable")[: mistakes.LISTED]
    table = Table(
        "The classes that another one is most like",
        ["class", "accuracy", "most alike", "cosine"],
        [cells[i] for i in order],
        frozenset({1, 3}),
    )
    return Section("map", "The classes on a map", sentence, [drawn], notes, [table]), key


def _apart(points: pd.DataFrame, width: float, height: float) -> list[int]:
    """Places, in the order of the points, of which no two are nearer on the map than a picture is large."""
    across, up = ((points[c] - points[c].min()) / max(float(points[c].max() - points[c].min()), 1e-9) for c in ("x", "y"))
    places = np.stack([across * WIDE / width, up * HIGH / height], 1)
    kept: list[int] = []
    for i, place in enumerate(places):
        if not kept or (np.abs(places[kept] - place).max(1) >= 1).all():
            kept.append(i)
    return kept


def _by_score(results: Results, tasks: pd.DataFrame) -> tuple[pd.DataFrame, Key]:
    """Each task's colour, the worst ones last, and what the colours stand for: the worst tenth, the other half that is worse, the rest."""
    score, accuracy = tasks[results.score].to_numpy(float), results.score == "accuracy"
    shown = words.percent if accuracy else words.number
    bad = -score if accuracy else score
    worst, middle = (np.quantile(bad, q) for q in (0.9, 0.5))
    rank = np.where(bad >= worst, 2, np.where(bad > middle, 1, 0))
    key: Key = []
    for i, colour in enumerate(("model", "early", "wrong")):
        values = score[rank == i]
        if len(values):
            key.append((colour, f"{shown(values.min())} to {shown(values.max())}" if values.min() < values.max() else shown(values.min())))
    look = tasks.assign(colour=np.array(["model", "early", "wrong"])[rank], said=[shown(s) for s in score])
    return look.iloc[np.argsort(rank, kind="stable")], key


def map_of_episodes(results: Results) -> tuple[Section, Key]:
    tasks = results.tasks
    names = [
        ", ".join(_name(results, int(row)) for row in classes) for classes in results.test.set_index("episode")["classes"][tasks["episode"]]
    ]
    points, key = _by_score(results, tasks.assign(classes=names))
    tooltip = [
        alt.Tooltip("episode:Q"), alt.Tooltip("said:N", title="accuracy"), alt.Tooltip("similarity:Q", format=".2f", title="alike"),
        alt.Tooltip("classes:N"),
    ]  # fmt: skip
    low, high = tasks["accuracy"].min(), tasks["accuracy"].max()
    at = tasks.sort_values(["accuracy", "episode"]).iloc[0]
    sentence = (
        f"{words.count(len(tasks), 'test episode')} have between {words.percent(low)} and {words.percent(high)}; the worst is episode "
        f"{int(at['episode'])}, whose classes are alike by {_cosine(at['similarity'])} on average."
    )
    notes = [
        "An episode stands at the mean of its classes, on the axes of the map above: what unites its classes, not how far apart they are."
    ]
    chart = maps.atlas(points, pd.DataFrame(), ("first axis", "second axis"), tooltip)
    drawn = figure("episodes-map", chart, f"Map of {words.count(len(tasks), 'test episode')}, coloured by accuracy.", sentence, 320)
    return Section("episodes-map", "The episodes on the map", sentence, [drawn], notes), key


def _parameters(results: Results) -> tuple[str, str]:
    """What a task without classes is described by: keys of metrics.json, for x and y."""
    return ("mean", "spread") if "tasks" in results.meta else ("phase", "amplitude")


SAID = {"mean": "mean rating", "spread": "spread of ratings (standard deviation)"}
"""In the place of the key itself."""


def map_of_parameters(results: Results) -> tuple[Section, Key]:
    """Regression: episodes by the two parameters that describe them."""
    across, up = _parameters(results)
    tasks = results.tasks[np.isfinite(results.tasks["mse"])]
    points, key = _by_score(results, tasks)
    tooltip = [
        alt.Tooltip("episode:Q"), alt.Tooltip("said:N", title=axis_title(results)), alt.Tooltip("y:Q", format=".2f", title=up),
        alt.Tooltip("x:Q", format=".2f", title=across),
    ]  # fmt: skip
    sentence = (
        f"Errors go with the {up} by a rank correlation of {_correlation(results, up)}, with the {across} by one of "
        f"{_correlation(results, across)}."
    )
    chart = maps.atlas(points, pd.DataFrame(), (SAID.get(across, across), SAID.get(up, up)), tooltip)
    told = f"Map of {words.count(len(tasks), 'test episode')} by {up} and {across}, coloured by error."
    drawn = figure("episodes-map", chart, told, sentence, 320)
    return Section("episodes-map", "The episodes on a map", sentence, [drawn], [_bootstrap(len(tasks))]), key


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _correlation(results: Results, key: str) -> str:
    """`−0.42 (95 % CI −0.49 to −0.35)`."""
    parts = [results.metrics.get(f"tasks.{key}.{part}") for part in ("spearman", "low", "high")]
    found = [value for value in parts if value is not None]
    if len(found) < len(parts):
        return "no figure (one of them does not vary)"
    mean, low, high = (_cosine(value) for value in found)
    return f"{mean} (95 % CI {low} to {high})"


def _bootstrap(n: int) -> str:
    return (
        f"Spearman's rank correlation, its interval by a bootstrap over {words.count(n, 'episode')}; episodes share classes, so that other "
        "classes would move it further than the interval says."
    )


def difficulty(results: Results) -> Section:
    """Score against how alike an episode's classes are (classification) or the second of its parameters (regression)."""
    accuracy, fifths = results.score == "accuracy", results.difficulty
    by, title = (
        ("similarity", "how alike the classes are (mean cosine of two)")
        if accuracy
        else ("y", SAID.get(_parameters(results)[1], _parameters(results)[1]))
    )
    tasks = results.tasks[np.isfinite(results.tasks[results.score])]
    shown = words.percent if accuracy else words.number
    points = pd.DataFrame(
        {"x": tasks[by], "y": tasks[results.score], "episode": tasks["episode"], "said": [shown(v) for v in tasks[results.score]]}
    )
    half = fifths["ci95"].fillna(0)
    means = pd.DataFrame(
        {
            "x": fifths["mean"], "y": fifths[results.score], "low": fifths[results.score] - half, "high": fifths[results.score] + half,
            "from": fifths["low"], "to": fifths["high"], "episodes": fifths["episodes"],
            "said": [words.figure(results.score, v, h) for v, h in zip(fifths[results.score], fifths["ci95"], strict=True)],
        }
    )  # fmt: skip
    if accuracy:
        means["high"] = means["high"].clip(upper=1.0)
    first, last = fifths.iloc[0], fifths.iloc[-1]
    ends = [words.figure(results.score, line[results.score], line["ci95"]) for line in (first, last)]
    sentence = _harder(results, ends)
    low, high = domain(results, pd.concat([points["y"], means["low"]]))
    low = float(points["y"].min()) - 0.03 if accuracy else low  # chance would leave the dots no room
    pad = 0.03 * max(float(points["x"].max() - points["x"].min()), 1e-9)
    x_axis: dict[str, Any] = {
        "axis": alt.Axis(title=title, format=".2~f", tickCount=6),
        "scale": alt.Scale(domain=[float(points["x"].min()) - pad, float(points["x"].max()) + pad], nice=False, zero=False),
    }
    y_axis = {"axis": axis(results), "scale": alt.Scale(domain=[low, high + (0.02 if accuracy else 0)], nice=False)}
    tooltips = (
        [
            alt.Tooltip("episode:Q"),
            alt.Tooltip("said:N", title=axis_title(results)),
            alt.Tooltip("x:Q", format=".2f", title=by if accuracy else title),
        ],
        [
            alt.Tooltip("said:N", title=axis_title(results)),
            alt.Tooltip("episodes:Q"),
            alt.Tooltip("from:Q", format=".2f"),
            alt.Tooltip("to:Q", format=".2f"),
        ],
    )
    what = f"{axis_title(results).capitalize()} of {words.count(len(points), 'test episode')} against {title}."
    drawn = figure("difficulty", maps.cloud(points, means, x_axis, y_axis, tooltips), what, sentence, 280)
    rows = [
        [
            str(int(f["fifth"])),
            f"{_cosine(f['low'])} to {_cosine(f['high'])}",
            f"{int(f['episodes']):,}",
            words.figure(results.score, f[results.score], f["ci95"]),
        ]
        for f in fifths.to_dict("records")
    ]
    table = Table(
        f"Fifths of the episodes by {'likeness' if accuracy else title}",
        ["fifth", "from, to", "episodes", axis_title(results)],
        rows,
        frozenset({1, 2, 3}),
    )
    notes = ["Grey: episodes; blue: the mean of each fifth of them with its 95 % interval. " + _bootstrap(len(points))]
    if accuracy:
        notes.append(
            "By the two classes that are most alike in place of the mean the correlation is "
            f"{_correlation(results, 'closest')}; by how alike the examples are as they come, which is all that train.hard goes by, it is "
            f"{_correlation(results, 'inputs')}."
        )
    return Section("difficulty", "What makes an episode hard", sentence, [drawn], notes, [table])


def _harder(results: Results, ends: list[str]) -> str:
    if results.score == "mse":
        up = _parameters(results)[1]
        return f"The fifth of the episodes with the smallest {up} has an error of {ends[0]}, that with the largest {ends[1]}."
    low, high = (results.metrics.get(f"tasks.similarity.{end}") for end in ("low", "high"))
    said = f"rank correlation {_correlation(results, 'similarity')}"
    if low is None or high is None or low <= 0 <= high:
        said = f"How alike its classes are tells little of how hard an episode is ({said})"
    else:
        said = f"The more alike its classes, the {'harder' if high < 0 else 'easier'} the episode ({said})"
    return f"{said}: the fifth whose classes are least alike has {ends[0]}, the fifth whose are most alike {ends[1]}."


def confused(results: Results) -> Section:
    """Pairs of classes that are taken for each other."""
    pairs = results.pairs
    if pairs.empty:
        return Section("pairs", "Taken for each other", "No class was ever taken for another.")
    top = pairs.iloc[0]
    names = [_name(results, int(top[column])) for column in ("first", "second")]
    sentence = (
        f"{names[0]} and {names[1]} are taken for each other most often: {words.count(top['confused'], 'time')} in "
        f"{words.count(top['queries'], 'query', 'queries')} of episodes that hold both; their cosine is {_cosine(top['similarity'])}."
    )
    rows = [
        [
            _name(results, int(p["first"])),
            _name(results, int(p["second"])),
            f"{int(p['confused']):,} of {int(p['queries']):,}",
            _cosine(p["similarity"]),
        ]
        for p in pairs.head(mistakes.LISTED).to_dict("records")
    ]
    table = Table("Pairs by how often they are confused", ["class", "other class", "confused", "cosine"], rows, frozenset({2, 3}))
    return Section(
        "pairs",
        "Taken for each other",
        sentence,
        [],
        ["Counted in both directions; pairs that meet in few episodes are there by luck."],
        [table],
    )


def pairs(results: Results) -> Pairs:
    """The most confused pairs in pictures or sentences."""
    table, cells, found = results.table, list[int](), list[Pair]()
    offsets = (table["count"].cumsum() - table["count"]).to_numpy()

    def take(row: int) -> list[int]:
        first = len(cells)
        cells.extend(range(offsets[row], offsets[row] + min(DRAWINGS, int(table["count"].iloc[row]))))
        return list(range(first, len(cells)))

    for line in results.pairs.head(PAIRS).to_dict("records"):
        one, two = int(line["first"]), int(line["second"])
        share = f"{int(line['confused']):,} of {words.count(line['queries'], 'query', 'queries')}"
        found.append(Pair(_name(results, one), _name(results, two), share, _cosine(line["similarity"]), take(one), take(two)))
    return Pairs(pictures.shown(results.examples, cells), found)
