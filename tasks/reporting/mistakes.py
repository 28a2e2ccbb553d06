"""What the model gets wrong: the hardest classes and groups, and what they are taken for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.reporting import words
from tasks.reporting.parts import Section, Table, dot_figure, row
from tasks.reporting.pictures import Sheet
from tasks.reporting.results import Results

HARDEST = 10
"""How many classes and groups are drawn."""


@dataclass(frozen=True)
class Mistaken:
    """A hard class: places on `Classes.sheet` of drawings of it and of the class that it is most often taken for."""

    name: str
    group: str
    figure: str
    drawings: list[int]
    taken_for: str
    share: str
    taken_drawings: list[int]


@dataclass(frozen=True)
class Mistakes:
    """The hardest classes in pictures."""

    sheet: Sheet
    rows: list[Mistaken]


def sections(results: Results) -> list[Section]:
    return [classes(results), *groups(results)]


def _sorted(results: Results) -> pd.DataFrame:
    assert results.classes is not None
    table = results.classes.assign(ci95=results.classes["ci95"].fillna(np.nan))
    return table.sort_values(["accuracy", "group", "class"], ignore_index=True)


def _name(line: pd.Series) -> str:
    return f"{line['class']} ({line['group']})" if line["group"] else str(line["class"])


def classes(results: Results) -> Section:
    table = _sorted(results)
    rows = []
    for _, line in table.head(HARDEST).iterrows():
        detail = f"{words.count(line['queries'], 'query', 'queries')} in {words.count(line['episodes'], 'episode')}"
        rows.append(row(results, _name(line), line["accuracy"], line["ci95"], "model", detail))
    perfect = int((table["correct"] == table["queries"]).sum())
    first = table.iloc[0]
    sentence = (
        f"The hardest of {words.count(len(table), 'test class', 'test classes')} is recognised in {words.percent(first['accuracy'])} of its queries, "
        f"the middle one in {words.percent(float(table['accuracy'].median()))}; {words.count(perfect, 'class was', 'classes were')} never mistaken."
    )
    cells = [
        [str(t["class"]), str(t["group"]), f"{t['episodes']:,}", f"{t['queries']:,}", f"{t['correct']:,}", words.figure("accuracy", t["accuracy"], t["ci95"])]
        for t in table.head(50).to_dict("records")
    ]
    caption = f"The {len(cells)} hardest classes" if len(table) > len(cells) else "All test classes, hardest first"
    tables = [Table(caption, ["class", "group", "episodes", "queries", "right", "accuracy"], cells, frozenset({2, 3, 4, 5}))]
    notes = ["The interval of a class is over the episodes that it was in; one seen in a single episode has none. The first of many are hard partly by chance."]
    figure = dot_figure(results, "classes", rows, f"Accuracy of the {len(rows)} hardest classes with 95 % intervals. {sentence}", 1 / results.meta["ways"])
    return Section("classes", "Hardest classes", sentence, [figure], notes, tables)


def groups(results: Results) -> list[Section]:
    """Pooled over the classes of a group; the interval follows from those of its classes, taken as independent."""
    table = _sorted(results)
    lines = []
    for name, part in table.groupby("group", sort=True):
        queries = int(part["queries"].sum())
        half = float(np.sqrt(((part["queries"] * part["ci95"]) ** 2).sum(skipna=False)) / queries)
        lines.append({"group": str(name), "classes": len(part), "queries": queries, "accuracy": part["correct"].sum() / queries, "ci95": half})
    if len(lines) < 2:
        return []
    frame = pd.DataFrame(lines).sort_values(["accuracy", "group"], ignore_index=True)
    rows = []
    for line in frame.head(HARDEST).to_dict("records"):
        detail = f"{words.count(line['queries'], 'query', 'queries')} of {words.count(line['classes'], 'class', 'classes')}"
        rows.append(row(results, line["group"], line["accuracy"], line["ci95"], "model", detail))
    low, high = frame.iloc[0], frame.iloc[-1]
    sentence = f"Between the hardest and the easiest of {len(frame)} groups lie {words.points(high['accuracy'] - low['accuracy'])}: {words.percent(low['accuracy'])} and {words.percent(high['accuracy'])}."
    cells = [[f["group"], f"{f['classes']:,}", f"{f['queries']:,}", words.figure("accuracy", f["accuracy"], f["ci95"])] for f in frame.to_dict("records")]
    notes = ["A group's figure pools the queries of its classes; its interval follows from theirs, taken as independent."]
    figure = dot_figure(results, "groups", rows, f"Accuracy of the {len(rows)} hardest groups with 95 % intervals. {sentence}", 1 / results.meta["ways"])
    tables = [Table("All groups, hardest first", ["group", "classes", "queries", "accuracy"], cells, frozenset({1, 2, 3}))]
    return [Section("groups", "Hardest groups", sentence, [figure], notes, tables)]


def pictures(results: Results, rows: int = 6, drawings: int = 4) -> Mistakes:
    """The hardest classes beside what their queries were most often taken for (counted over all answers)."""
    assert results.classes is not None and results.answers is not None and results.table is not None and results.images is not None
    table = results.table.reset_index(drop=True)
    offsets = (table["count"].cumsum() - table["count"]).to_numpy()
    class_of = np.stack(results.test.set_index("episode")["classes"].reindex(results.answers["episode"]).to_list())
    place = np.arange(len(class_of))
    said = pd.DataFrame({"truth": class_of[place, results.answers["label"]], "answer": class_of[place, results.answers["after"]]})
    wrong = said[said["truth"] != said["answer"]].groupby("truth")["answer"]
    number = {key: i for i, key in enumerate(zip(table["class"], table["group"], strict=True)) if table["split"][i] == "test"}
    sheet_rows: list[int] = []
    result = []

    def take(row: int) -> list[int]:
        first = len(sheet_rows)
        sheet_rows.extend(range(offsets[row], offsets[row] + min(drawings, int(table["count"][row]))))
        return list(range(first, len(sheet_rows)))

    for _, line in _sorted(results).iterrows():
        row = number.get((line["class"], line["group"]))
        if len(result) == rows or row is None or row not in wrong.groups:
            continue
        counts = wrong.get_group(row).value_counts()
        other = int(counts[counts == counts.max()].index.min())
        share = f"{words.count(counts.max(), 'time')} of {words.count(counts.sum(), 'mistake')}"
        figure = words.figure("accuracy", line["accuracy"], line["ci95"])
        result.append(Mistaken(str(line["class"]), str(line["group"]), figure, take(row), _name(table.loc[other]), share, take(other)))
    return Mistakes(Sheet.of(results.images, sheet_rows), result)
