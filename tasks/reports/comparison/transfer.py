"""Transfer between groups: experiments trained on some groups of classes, by test group."""

from __future__ import annotations

import altair as alt
import pandas as pd

from tasks.reports.comparison import sentences
from tasks.reports.comparison.naming import SEED, build_settings_key, select_effective_settings
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.comparison.style import format_interval
from tasks.reports.kit import charts, maps, wording
from tasks.reports.kit.pooling import pool_classes
from tasks.reports.kit.section import ReportSection, Table, build_figure

KEY = "train.groups"


def build_transfer_section(protocol: Protocol, suffix: str) -> ReportSection | None:
    """Build the section with the accuracy by training group and test group.

    It shows the largest set of configurations that differ only in their training groups. Returns
    None if there are fewer than two.
    """
    members = _find_members(protocol)
    if len(members) < 2:
        return None
    names = {id(c): " + ".join(select_effective_settings(c.first)[KEY]) for c in members}
    cells = pd.concat([_measure_groups(c).assign(row=names[id(c)]) for c in members])
    cells["text"] = [
        wording.format_estimate("accuracy", accuracy, ci95)
        for accuracy, ci95 in zip(cells["accuracy"], cells["ci95"], strict=True)
    ]
    rows, columns = [names[id(c)] for c in members], sorted(set(cells["column"]))
    sentence = sentences.describe_transfer(protocol, names)
    description = (
        f"Heatmap: accuracy of {wording.format_count(len(rows), 'training group')} on "
        f"{wording.format_count(len(columns), 'test group')}."
    )
    chart = _draw_heatmap(cells, rows, columns)
    height = 60 + 34 * len(rows)
    figure = build_figure(f"transfer{suffix}", chart, description, sentence, height)
    texts = cells.set_index(["row", "column"])["text"]
    head = ["trained on", "classes", "all test groups", *columns]
    table = Table(
        "Accuracy by group with its 95 % interval over the group's classes",
        head,
        [
            [
                name,
                str(c.first.config.get("classes", "")),
                format_interval(protocol, c.score),
                *(texts[name, column] for column in columns),
            ]
            for name, c in zip(rows, members, strict=True)
        ],
        frozenset(range(1, len(head))),
    )
    notes = sentences.list_transfer_notes(sorted(set(rows) & set(columns)))
    return ReportSection(
        f"transfer{suffix}", "Transfer between groups", sentence, [figure], notes, [table]
    )


def _find_members(protocol: Protocol) -> list[Configuration]:
    """Return the largest set of configurations that differ only in training groups, best first."""
    members: dict[str, list[Configuration]] = {}
    for c in protocol.configurations:
        settings = select_effective_settings(c.first)
        if settings.get(KEY) and not c.first.classes.empty:
            members.setdefault(build_settings_key(settings, [KEY, SEED]), []).append(c)
    return max(members.values(), key=len, default=[])


def _measure_groups(configuration: Configuration) -> pd.DataFrame:
    """Measure the accuracy by test group over the queries of all seeds.

    Returns:
        `column` (the group), `accuracy` and `ci95`.
    """
    keys = ["group", "class"]
    classes = pd.concat([e.classes for e in configuration.experiments])
    pooled = classes.groupby(keys, as_index=False)[["queries", "correct"]].sum()
    pooled = pooled.merge(configuration.first.classes[[*keys, "ci95"]], on=keys)
    rows = [(str(name), *pool_classes(group)) for name, group in pooled.groupby("group", sort=True)]
    return pd.DataFrame(rows, columns=["column", "accuracy", "ci95"])


def _draw_heatmap(cells: pd.DataFrame, rows: list[str], columns: list[str]) -> charts.Layers:
    low, high = float(cells["accuracy"].min()), float(cells["accuracy"].max())
    cells = cells.assign(
        strength=(cells["accuracy"] - low) / max(high - low, 1e-9),
        label=[f"{100 * accuracy:.0f}" for accuracy in cells["accuracy"]],
    )
    tooltip = [
        alt.Tooltip("row:N", title="trained on"),
        alt.Tooltip("column:N", title="tested on"),
        alt.Tooltip("text:N", title="accuracy"),
    ]
    return maps.draw_heatmap(cells, ("tested on", "trained on"), rows, columns, tooltip)
