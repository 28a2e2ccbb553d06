"""What makes an episode hard: how alike its classes are, or what describes a task without classes, and what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import maps, pictures, wording
from tasks.reports.kit.pictures import Lines, Sheet
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Section, Table, axis, axis_title, domain, figure
from tasks.reports.run import confusions

PAIRS, DRAWINGS = 8, 4
"""Confused pairs in pictures, and drawings of each class."""


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


def class_name(results: Results, row: int) -> str:
    line = results.table.iloc[row]
    return wording.class_name(line["class"], line["group"])


def parameters(results: Results) -> tuple[str, str]:
    """What a task without classes is described by: keys of metrics.json, for x and y."""
    return ("mean", "spread") if "tasks" in results.meta else ("phase", "amplitude")


SAID = {"mean": "mean rating", "spread": "spread of ratings (standard deviation)"}
"""In the place of the key itself."""


def cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def correlation(results: Results, key: str) -> str:
    """`−0.42 (95 % CI −0.49 to −0.35)`."""
    parts = [results.metrics.get(f"tasks.{key}.{part}") for part in ("spearman", "low", "high")]
    found = [value for value in parts if value is not None]
    if len(found) < len(parts):
        return "no figure (one of them does not vary)"
    mean, low, high = (cosine(value) for value in found)
    return f"{mean} (95 % CI {low} to {high})"


def bootstrap(results: Results, n: int) -> str:
    said = f"Spearman's rank correlation, its interval by a bootstrap over {wording.count(n, 'episode')}"
    if results.kind == "regression":
        return f"{said}, of which each is a task of its own."
    return f"{said}; episodes share classes, so that other classes would move it further than the interval says."


def beyond_chance(results: Results, key: str) -> bool:
    """Whether the interval of a correlation leaves out 0."""
    low, high = (results.metrics.get(f"tasks.{key}.{end}") for end in ("low", "high"))
    return low is not None and high is not None and not low <= 0 <= high


def difficulty(results: Results) -> Section:
    """Score against how alike an episode's classes are (classification) or the second of its parameters (regression)."""
    accuracy, fifths = results.score == "accuracy", results.difficulty
    by, title = (
        ("similarity", "how alike the classes are (mean cosine of two)")
        if accuracy
        else ("y", SAID.get(parameters(results)[1], parameters(results)[1]))
    )
    tasks = results.tasks[np.isfinite(results.tasks[results.score])]
    shown = wording.percent if accuracy else wording.number
    points = pd.DataFrame(
        {
            "x": tasks[by],
            "y": tasks[results.score],
            "episode": tasks["episode"],
            "said": [shown(v) for v in tasks[results.score]],
        }
    )
    half = fifths["ci95"].fillna(0)
    means = pd.DataFrame(
        {
            "x": fifths["mean"],
            "y": fifths[results.score],
            "low": fifths[results.score] - half,
            "high": fifths[results.score] + half,
            "from": fifths["low"],
            "to": fifths["high"],
            "episodes": fifths["episodes"],
            "said": [
                wording.figure(results.score, v, h)
                for v, h in zip(fifths[results.score], fifths["ci95"], strict=True)
            ],
        }
    )
    if accuracy:
        means["high"] = means["high"].clip(upper=1.0)
    first, last = fifths.iloc[0], fifths.iloc[-1]
    ends = [
        wording.figure(results.score, line[results.score], line["ci95"]) for line in (first, last)
    ]
    sentence = _harder(results, ends)
    low, high = domain(results, pd.concat([points["y"], means["low"]]))
    low = (
        float(points["y"].min()) - 0.03 if accuracy else low
    )  # chance would leave the dots no room
    pad = 0.03 * max(float(points["x"].max() - points["x"].min()), 1e-9)
    x_axis: dict[str, Any] = {
        "axis": alt.Axis(title=title, format=".2~f", tickCount=6),
        "scale": alt.Scale(
            domain=[float(points["x"].min()) - pad, float(points["x"].max()) + pad],
            nice=False,
            zero=False,
        ),
    }
    y_axis = {
        "axis": axis(results),
        "scale": alt.Scale(domain=[low, high + (0.02 if accuracy else 0)], nice=False),
    }
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
    what = f"{axis_title(results).capitalize()} of {wording.count(len(points), 'test episode')} against {title}."
    drawn = figure(
        "difficulty", maps.cloud(points, means, x_axis, y_axis, tooltips), what, sentence, 280
    )
    rows = [
        [
            str(int(f["fifth"])),
            f"{cosine(f['low'])} to {cosine(f['high'])}",
            f"{int(f['episodes']):,}",
            wording.figure(results.score, f[results.score], f["ci95"]),
        ]
        for f in fifths.to_dict("records")
    ]
    table = Table(
        f"Fifths of the episodes by {'likeness' if accuracy else title}",
        ["fifth", "from, to", "episodes", axis_title(results)],
        rows,
        frozenset({1, 2, 3}),
    )
    notes = [
        "Grey: episodes; blue: the mean of each fifth of them with its 95 % interval. "
        + bootstrap(results, len(points))
    ]
    if accuracy:
        notes.append(
            "By the two classes that are most alike in place of the mean the correlation is "
            f"{correlation(results, 'closest')}; by how alike the examples are as they come, which is all that train.hard goes by, it is "
            f"{correlation(results, 'inputs')}."
        )
    return Section("difficulty", "What makes an episode hard", sentence, [drawn], notes, [table])


def _harder(results: Results, ends: list[str]) -> str:
    if results.score == "mse":
        up = parameters(results)[1]
        return f"The fifth of the episodes with the smallest {up} has an error of {ends[0]}, that with the largest {ends[1]}."
    said = f"rank correlation {correlation(results, 'similarity')}"
    if not beyond_chance(results, "similarity"):
        said = f"How alike its classes are tells little of how hard an episode is ({said})"
    else:
        easier = results.metrics["tasks.similarity.spearman"] > 0
        said = f"The more alike its classes, the {'easier' if easier else 'harder'} the episode ({said})"
    return f"{said}: the fifth whose classes are least alike has {ends[0]}, the fifth whose are most alike {ends[1]}."


def confused(results: Results) -> Section:
    """Pairs of classes that are taken for each other."""
    pairs = results.pairs
    if pairs.empty:
        return Section("pairs", "Taken for each other", "No class was ever taken for another.")
    top = pairs.iloc[0]
    names = [class_name(results, int(top[column])) for column in ("first", "second")]
    sentence = (
        f"{names[0]} and {names[1]} are taken for each other most often: {wording.count(top['confused'], 'time')} in "
        f"{wording.count(top['queries'], 'query', 'queries')} of the {wording.count(top['episodes'], 'episode')} that "
        f"{'holds' if top['episodes'] == 1 else 'hold'} both; their cosine is {cosine(top['similarity'])}."
    )
    rows = [
        [
            class_name(results, int(p["first"])),
            class_name(results, int(p["second"])),
            f"{int(p['confused']):,} of {int(p['queries']):,}",
            f"{int(p['episodes']):,}",
            cosine(p["similarity"]),
        ]
        for p in pairs.head(confusions.LISTED).to_dict("records")
    ]
    table = Table(
        "Pairs by how often they are confused",
        ["class", "other class", "confused", "episodes", "cosine"],
        rows,
        frozenset({2, 3, 4}),
    )
    return Section(
        "pairs",
        "Taken for each other",
        sentence,
        [],
        [
            "Counted in both directions. The first of many pairs, each of which meets in few episodes, are there partly by luck."
        ],
        [table],
    )


def pairs(results: Results) -> Pairs:
    """The most confused pairs in pictures or sentences."""
    table, cells, found = results.table, list[int](), list[Pair]()
    offsets = (table["count"].cumsum() - table["count"]).to_numpy()

    def take(row: int) -> list[int]:
        first = len(cells)
        cells.extend(
            range(offsets[row], offsets[row] + min(DRAWINGS, int(table["count"].iloc[row])))
        )
        return list(range(first, len(cells)))

    for line in results.pairs.head(PAIRS).to_dict("records"):
        one, two = int(line["first"]), int(line["second"])
        share = f"{int(line['confused']):,} of {wording.count(line['queries'], 'query', 'queries')}"
        found.append(
            Pair(
                class_name(results, one),
                class_name(results, two),
                share,
                cosine(line["similarity"]),
                take(one),
                take(two),
            )
        )
    return Pairs(pictures.shown(results.examples, cells), found)
