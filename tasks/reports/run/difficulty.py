"""The difficulty of an episode: its score by similarity of the classes or by a parameter."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import maps, wording
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import (
    Figure,
    ReportSection,
    Table,
    build_figure,
    build_score_axis,
    choose_score_domain,
)
from tasks.reports.run import sentences
from tasks.reports.run.facts import measure_difficulty


def build_difficulty_section(results: Results) -> ReportSection:
    """Build the section with the score of an episode by a property of its task."""
    if results.kind == "classification" and results.has_one_set_of_classes:
        sentence = sentences.describe_only_classes(results.meta["ways"])
        return ReportSection("difficulty", "Episode difficulty", sentence)
    facts = measure_difficulty(results)
    name = sentences.name_parameter(facts.property)
    sentence = sentences.describe_difficulty(facts)
    rows = [
        [
            str(int(row["fifth"])),
            f"{wording.format_decimal(row['low'])} to {wording.format_decimal(row['high'])}",
            f"{int(row['episodes']):,}",
            wording.format_estimate(facts.score, row[facts.score], row["ci95"]),
        ]
        for row in results.difficulty.to_dict("records")
    ]
    head = ["quintile", "range", "episodes", wording.name_score(facts.score)]
    table = Table(f"Quintiles of the episodes by {name}", head, rows, frozenset({1, 2, 3}))
    figure = _draw_difficulty(results, facts.property, name, sentence)
    notes = sentences.list_difficulty_notes(facts)
    return ReportSection("difficulty", "Episode difficulty", sentence, [figure], notes, [table])


def _draw_difficulty(results: Results, key: str, name: str, sentence: str) -> Figure:
    score, show = results.score, wording.choose_formatter(results.score)
    accuracy = score == "accuracy"
    column, title = "y", name
    if accuracy:
        column, title = key, "similarity of the classes (mean pairwise cosine)"
    tasks = results.tasks[np.isfinite(results.tasks[score])]
    points = pd.DataFrame({"x": tasks[column], "y": tasks[score], "episode": tasks["episode"]})
    points["score"] = [show(value) for value in tasks[score]]
    means = _bin_means(results)
    low, high = choose_score_domain(results, pd.concat([points["y"], means["low"]]))
    if accuracy:  # an axis from the chance level on would compress the points
        low, high = float(points["y"].min()) - 0.03, high + 0.02
    ends = float(points["x"].min()), float(points["x"].max())
    pad = 0.03 * max(ends[1] - ends[0], 1e-9)
    x_axis: dict[str, Any] = {
        "axis": alt.Axis(title=title, format=".2~f", tickCount=6),
        "scale": alt.Scale(domain=[ends[0] - pad, ends[1] + pad], nice=False, zero=False),
    }
    y_axis = {"axis": build_score_axis(score), "scale": alt.Scale(domain=[low, high], nice=False)}
    score_name = wording.name_score(score)
    tooltips = (
        [
            alt.Tooltip("episode:Q"),
            alt.Tooltip("score:N", title=score_name),
            alt.Tooltip("x:Q", format=".2f", title=name),
        ],
        [
            alt.Tooltip("score:N", title=score_name),
            alt.Tooltip("episodes:Q"),
            alt.Tooltip("from:Q", format=".2f"),
            alt.Tooltip("to:Q", format=".2f"),
        ],
    )
    chart = maps.draw_binned_scatter(points, means, x_axis, y_axis, tooltips)
    episodes = wording.format_count(len(points), "test episode")
    description = f"{score_name.capitalize()} of {episodes} by {title}."
    return build_figure("difficulty", chart, description, sentence, 280)


def _bin_means(results: Results) -> pd.DataFrame:
    """Return the mean score by quintile with its interval."""
    bins, score = results.difficulty, results.score
    half = bins["ci95"].fillna(0)
    high = bins[score] + half
    return pd.DataFrame(
        {
            "x": bins["mean"],
            "y": bins[score],
            "low": bins[score] - half,
            "high": high.clip(upper=1.0) if score == "accuracy" else high,
            "from": bins["low"],
            "to": bins["high"],
            "episodes": bins["episodes"],
            "score": [
                wording.format_estimate(score, value, ci95)
                for value, ci95 in zip(bins[score], bins["ci95"], strict=True)
            ],
        }
    )
