"""What the model gets wrong: the hardest classes and groups, and what they are taken for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import wording
from tasks.reports.kit.pictures import Lines, Sheet, shown
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Section, Table, chance, dot_figure, row

HARDEST, LISTED = 10, 50
"""How many classes and groups are drawn, and how many classes the table lists."""


@dataclass(frozen=True)
class Mistaken:
    """A hard class: places on `Classes.sheet` of drawings of it and of the class that it is most often taken for."""

    name: str
    figure: str
    drawings: list[int]
    taken_for: str
    share: str
    taken_drawings: list[int]


@dataclass(frozen=True)
class Mistakes:
    """The hardest classes in pictures."""

    sheet: Sheet | Lines
    rows: list[Mistaken]


def sections(results: Results) -> list[Section]:
    return [classes(results), *groups(results)]


def _sorted(results: Results) -> pd.DataFrame:
    table = results.classes.assign(ci95=pd.to_numeric(results.classes["ci95"]))
    return table.sort_values(
        ["accuracy", "queries", "group", "class"],
        ascending=[True, False, True, True],
        ignore_index=True,
    )


def classes(results: Results) -> Section:
    """The classes with the lowest accuracy."""
    table = _sorted(results)
    rows = []
    for line in table.head(HARDEST).to_dict("records"):
        detail = f"{wording.count(line['queries'], 'query', 'queries')} in {wording.count(line['episodes'], 'episode')}"
        rows.append(
            row(
                results,
                wording.class_name(line["class"], line["group"]),
                line["accuracy"],
                line["ci95"],
                "model",
                detail,
                ink="ink",
            )
        )
    perfect, hardest = (
        int((table["correct"] == table["queries"]).sum()),
        wording.percent(float(table["accuracy"].iloc[0])),
    )
    middle, number = (
        wording.percent(float(table["accuracy"].median())),
        wording.count(len(table), "test class", "test classes"),
    )
    never = (
        f"; {wording.count(perfect, 'class was', 'classes were')} never mistaken" if perfect else ""
    )
    sentence = f"The hardest of {number} is recognised in {hardest} of its queries, the middle one in {middle}{never}."
    shown = table.head(LISTED).to_dict("records")
    caption = (
        f"The {len(shown)} hardest classes"
        if len(table) > len(shown)
        else "All test classes, hardest first"
    )
    counts = [[f"{t[column]:,}" for column in ("episodes", "queries", "correct")] for t in shown]
    cells = [
        [t["class"], t["group"], *c, wording.figure("accuracy", t["accuracy"], t["ci95"])]
        for t, c in zip(shown, counts, strict=True)
    ]
    tables = [
        Table(
            caption,
            ["class", "group", "episodes", "queries", "right", "accuracy"],
            cells,
            frozenset({2, 3, 4, 5}),
        )
    ]
    notes = [
        "The interval of a class is over the episodes that it was in; one seen in a single episode has none. "
        "The hardest of many are hard partly by chance."
    ]
    told = f"Accuracy of the {len(rows)} hardest classes with 95 % intervals. {sentence}"
    return Section(
        "classes",
        "Hardest classes",
        sentence,
        [dot_figure(results, "classes", rows, told, chance(results))],
        notes,
        tables,
    )


def groups(results: Results, most: int = HARDEST) -> list[Section]:
    """Groups of classes (alphabets), by accuracy, the `most` hardest of them; nothing where there is one group only."""
    lines: list[dict[str, Any]] = []
    for name, part in _sorted(results).groupby("group", sort=True):
        accuracy, half = pooled(part)
        size = {"group": str(name), "classes": len(part), "queries": int(part["queries"].sum())}
        lines.append(size | {"accuracy": accuracy, "ci95": half})
    if len(lines) < 2:
        return []
    lines.sort(key=lambda line: (line["accuracy"], line["group"]))
    rows = []
    for line in lines[:most]:
        detail = f"{wording.count(line['queries'], 'query', 'queries')} of {wording.count(line['classes'], 'class', 'classes')}"
        rows.append(
            row(results, line["group"], line["accuracy"], line["ci95"], "model", detail, ink="ink")
        )
    low, high = lines[0]["accuracy"], lines[-1]["accuracy"]
    gap = f"{wording.points(high - low)}: {wording.percent(low)} and {wording.percent(high)}"
    sentence = f"Between the hardest and the easiest of {len(lines)} groups lie {gap}."
    cells = [
        [
            line["group"],
            f"{line['classes']:,}",
            f"{line['queries']:,}",
            wording.figure("accuracy", line["accuracy"], line["ci95"]),
        ]
        for line in lines
    ]
    tables = [
        Table(
            "All groups, hardest first",
            ["group", "classes", "queries", "accuracy"],
            cells,
            frozenset({1, 2, 3}),
        )
    ]
    notes = [
        "A group's figure pools the queries of its classes; its 95 % interval is over its classes."
    ]
    told = f"Accuracy of the {len(rows)} hardest groups with 95 % intervals. {sentence}"
    return [
        Section(
            "groups",
            "Hardest groups",
            sentence,
            [dot_figure(results, "groups", rows, told, chance(results))],
            notes,
            tables,
        )
    ]


def pooled(part: pd.DataFrame) -> tuple[float, float]:
    """Accuracy over the queries of several classes, and its half-width with classes as the units that vary (a ratio estimate)."""
    queries, correct = part["queries"].to_numpy(float), part["correct"].to_numpy(float)
    accuracy, n = correct.sum() / queries.sum(), len(part)
    if n == 1:
        return float(accuracy), float(part["ci95"].iloc[0])
    spread = np.sqrt(n / (n - 1) * np.square(correct - queries * accuracy).sum())
    return float(accuracy), float(1.96 * spread / queries.sum())


def pictures(results: Results, rows: int = 6, drawings: int = 4) -> Mistakes:
    """The hardest classes beside what their queries were most often taken for (counted over all answers)."""
    table = results.table.reset_index(drop=True)
    offsets = (table["count"].cumsum() - table["count"]).to_numpy()
    class_of = np.stack(
        results.test.set_index("episode")["classes"].reindex(results.answers["episode"]).to_list()
    )
    place = np.arange(len(class_of))
    said = pd.DataFrame(
        {
            "truth": class_of[place, results.answers["label"]],
            "answer": class_of[place, results.answers["after"]],
        }
    )
    wrong = said[said["truth"] != said["answer"]].groupby("truth")["answer"]
    number = {
        key: i
        for i, key in enumerate(zip(table["class"], table["group"], strict=True))
        if table["split"][i] == "test"
    }
    sheet_rows: list[int] = []
    result: list[Mistaken] = []

    def take(row: int) -> list[int]:
        first = len(sheet_rows)
        sheet_rows.extend(
            range(offsets[row], offsets[row] + min(drawings, int(table["count"][row])))
        )
        return list(range(first, len(sheet_rows)))

    for _, line in _sorted(results).iterrows():
        row = number.get((line["class"], line["group"]))
        if len(result) == rows or row is None or row not in wrong.groups:
            continue
        counts = wrong.get_group(row).value_counts()
        other = int(counts[counts == counts.max()].index.min())
        share = f"{wording.count(counts.max(), 'time')} of {wording.count(counts.sum(), 'mistake')}"
        name, taken = (
            wording.class_name(table["class"][i], table["group"][i]) for i in (row, other)
        )
        figure = wording.figure("accuracy", line["accuracy"], line["ci95"])
        result.append(Mistaken(name, figure, take(row), taken, share, take(other)))
    return Mistakes(shown(results.examples, sheet_rows), result)
