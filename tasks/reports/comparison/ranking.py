"""The ranking of the configurations and the table of all of them."""

from __future__ import annotations

from typing import Any

import altair as alt

from tasks.reports.comparison import sentences
from tasks.reports.comparison.naming import format_setting
from tasks.reports.comparison.protocols import SIGNIFICANCE, Configuration, Protocol
from tasks.reports.comparison.style import (
    choose_colour,
    choose_score_format,
    format_difference,
    format_interval,
)
from tasks.reports.kit import charts, wording
from tasks.reports.kit.section import Figure, ReportSection, Table

DRAWN = 30
"""Maximum number of configurations drawn; the table has all."""


def build_ranking_section(protocol: Protocol, suffix: str) -> ReportSection:
    """Build the section with all configurations and their intervals, the best first.

    Args:
        protocol: The protocol.
        suffix: Suffix of the section's anchor, distinct for each protocol.
    """
    dots = [_ranking_dot(protocol, c) for c in protocol.configurations[:DRAWN]]
    low, high = min(dot.low for dot in dots), max(dot.high for dot in dots)
    width = high - low
    top = min(1.0, high + 0.02 * width) if protocol.is_accuracy else high
    limits = max(0.0, low - 0.05 * width), top
    name = wording.name_score(protocol.score)
    form = choose_score_format(protocol, limits[1] - limits[0])
    chart = charts.draw_dots(dots, alt.Axis(title=name, format=form, tickCount=5), limits)
    sentence = sentences.describe_best(protocol)
    description = (
        f"{name.capitalize()} of {wording.format_count(len(dots), 'configuration')} with 95 % "
        f"intervals, the best first. {sentence}"
    )
    spec = charts.build_page_spec(chart, charts.ROW_HEIGHT * len(dots))
    figure = Figure(f"ranking{suffix}", spec, description)
    notes = sentences.list_ranking_notes(protocol, DRAWN)
    return ReportSection(f"ranking{suffix}", "Ranking", sentence, [figure], notes)


def _ranking_dot(protocol: Protocol, configuration: Configuration) -> charts.Dot:
    score = configuration.score
    seeds = wording.format_count(len(configuration.experiments), "seed")
    is_baseline = configuration is protocol.baseline
    several = len(protocol.configurations) > 1
    return charts.Dot(
        name=configuration.name + (" (baseline)" if is_baseline and several else ""),
        value=score.mean,
        low=max(score.low, 0.0),
        high=min(score.high, 1.0) if protocol.is_accuracy else score.high,
        text=wording.choose_formatter(protocol.score)(score.mean),
        detail=f"{seeds}, {wording.format_count(score.episodes, 'test episode')}",
        colour=choose_colour(protocol, configuration),
        shape="diamond" if is_baseline else "circle",
    )


def build_configuration_table(protocol: Protocol) -> dict[str, Any]:
    """Build the sortable table of all configurations.

    Returns:
        `head`; `numeric`, by column; and `rows`, each with `cells` as pairs of text and sort key,
        the `verdict` (`win`, `lose` or ''), its `experiments`, and the `spread` of its seeds.
    """
    # A setting that is the whole name of every configuration needs no column.
    keys = [
        key
        for key in protocol.keys
        if any(_format_cell(c.params.get(key)) != c.name for c in protocol.configurations)
    ]
    score = wording.name_score(protocol.score)
    scores = ["seeds", score, "vs baseline", "95 % CI", "corrected p", "training", "memory"]
    numeric = [
        all(type(c.params.get(key)) in (int, float, type(None)) for c in protocol.configurations)
        for key in keys
    ]
    rows = [
        {
            "cells": [(c.name, c.name), *_setting_cells(c, keys), *_score_cells(protocol, c)],
            "verdict": _judge(protocol, c),
            "experiments": ", ".join(e.name for e in c.experiments),
            "spread": sentences.describe_seeds(protocol, c),
        }
        for c in protocol.configurations
    ]
    return {
        "head": ["configuration", *keys, *scores],
        "numeric": [False, *numeric, *[True] * len(scores)],
        "rows": rows,
    }


def _setting_cells(configuration: Configuration, keys: list[str]) -> list[tuple[str, Any]]:
    values = [configuration.params.get(key) for key in keys]
    return [(_format_cell(value), "" if value is None else value) for value in values]


def _score_cells(protocol: Protocol, configuration: Configuration) -> list[tuple[str, Any]]:
    difference, seeds = configuration.to_baseline, len(configuration.experiments)
    compared: list[tuple[str, Any]] = [("baseline", 0.0), ("", ""), ("", "")]
    if difference is not None:
        low, high = (format_difference(protocol, v) for v in (difference.low, difference.high))
        compared = [
            (format_difference(protocol, difference.mean), difference.mean),
            (f"{low} to {high}", difference.low),
            (wording.format_p_value(configuration.p), configuration.p),
        ]
    return [
        (str(seeds), seeds),
        (format_interval(protocol, configuration.score), configuration.score.mean),
        *compared,
        (wording.format_duration(configuration.seconds), configuration.seconds),
        (f"{configuration.memory / 1e9:.2f} GB", configuration.memory),
    ]


def _judge(protocol: Protocol, configuration: Configuration) -> str:
    difference = configuration.to_baseline
    if difference is None or configuration.p >= SIGNIFICANCE:
        return ""
    return "win" if difference.mean * protocol.sign > 0 else "lose"


def _format_cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else format_setting(value)


def build_text_table(protocol: Protocol) -> Table:
    """Build the table of all configurations as text, for Markdown."""
    table = build_configuration_table(protocol)
    rows = [[text for text, _ in row["cells"]] for row in table["rows"]]
    numeric = frozenset(i for i, is_numeric in enumerate(table["numeric"]) if is_numeric)
    return Table("All configurations, the best first", table["head"], rows, numeric)
