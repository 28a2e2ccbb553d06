"""The headline score: compared with baselines and published results, and by episode."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from episodic.core.episode_size import describe_sizes
from tasks.reports.kit import charts, wording
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import (
    Figure,
    ReportSection,
    Table,
    build_dot_figure,
    build_dot_table,
    build_figure,
    build_score_axis,
    build_score_dot,
    compute_chance_level,
)
from tasks.reports.run import sentences
from tasks.reports.run.facts import (
    Distribution,
    ScoreComparison,
    compare_with_baselines,
    measure_distribution,
)


def build_baseline_section(results: Results, settings: dict[str, Any]) -> ReportSection:
    """Build the section that compares the score with baselines and published results.

    Args:
        results: The results of the run.
        settings: Its params.yaml.
    """
    facts = compare_with_baselines(results, settings)
    sentence = sentences.describe_baselines(facts)
    dots = _draw_baselines(results, facts)
    shown = ["the model", wording.format_count(len(facts.baselines), "baseline")]
    if len(facts.same_protocol):
        shown.append(
            wording.format_count(len(facts.same_protocol), "published or reference result")
        )
    name = wording.name_score(facts.score).capitalize()
    description = f"{name} of {wording.join_words(shown)} with 95 % intervals."
    figure = build_dot_figure(
        facts.score, "baselines", dots, f"{description} {sentence}", compute_chance_level(results)
    )
    tables = [build_dot_table("Values of the chart", facts.score, dots)]
    if len(facts.other_protocols):
        tables.append(_other_protocols_table(facts))
    notes = sentences.list_baseline_notes(facts)
    return ReportSection("baselines", "Baselines", sentence, [figure], notes, tables)


def _draw_baselines(results: Results, facts: ScoreComparison) -> list[charts.Dot]:
    """Return the dots of the model, the baselines and the published results, the best first."""
    config = results.config
    name = f"this model ({config['algorithm']['name']}, {config['model']['name']})"
    episodes = wording.format_count(facts.episodes, "test episode")
    dots = [build_score_dot(facts.score, name, facts.value, facts.ci95, episodes)]
    for baseline in facts.baselines:
        detail = "by definition"
        if baseline.episodes is not None:
            detail = wording.format_count(baseline.episodes, "test episode")
        dots.append(
            build_score_dot(
                facts.score,
                wording.name_baseline(baseline.key),
                baseline.value,
                baseline.ci95,
                detail,
                colour="baseline",
                shape="square",
            )
        )
    for row in facts.same_protocol.to_dict("records"):
        dot = build_score_dot(
            facts.score,
            f"{row['method']}, {row['network']} ({row['source']})",
            row["value"],
            row["ci95_half"],
            row["note"] or row["source"],
            colour="published",
            shape="diamond",
        )
        dots.append(replace(dot, text=row["printed"]))
    sign = -1 if facts.score == "accuracy" else 1
    return sorted(dots, key=lambda dot: (sign * dot.value, dot.name))


def _other_protocols_table(facts: ScoreComparison) -> Table:
    task = f"{describe_sizes(facts.meta)} {facts.meta['dataset']}"
    if facts.score == "mse":
        task = f"{facts.meta['dataset']}, {facts.meta['shots']} shots"
    caption = f"Results for {task} under other protocols (not directly comparable)"
    head = ["method", "network", wording.name_score(facts.score), "differs in", "note", "source"]
    columns = ["method", "network", "printed", "differs", "note", "source"]
    rows = facts.other_protocols[columns].to_numpy().tolist()
    return Table(caption, head, rows, frozenset({2}), facts.other_protocols["link"].tolist())


def build_distribution_section(results: Results) -> ReportSection:
    """Build the section with the distribution of the score over test episodes."""
    facts = measure_distribution(results)
    sentence = sentences.describe_distribution(facts)
    figure = _draw_distribution(results, facts, sentence)
    notes = sentences.list_distribution_notes(facts)
    if results.kind == "classification" and results.has_one_set_of_classes:
        notes.append(sentences.describe_fixed_classes(results.meta["ways"]))
    names = ["mean", "5 %", "25 %", "median", "75 %", "95 %", "worst"]
    values = [facts.mean, *facts.quantiles.values(), facts.worst]
    show = wording.choose_formatter(facts.score)
    table = Table(
        f"Quantiles over {wording.format_count(len(facts.values), 'episode')}",
        ["", wording.name_score(facts.score)],
        [[name, show(value)] for name, value in zip(names, values, strict=True)],
        frozenset({1}),
    )
    return ReportSection(
        "episodes", "Distribution over episodes", sentence, [figure], notes, [table]
    )


def _draw_distribution(results: Results, facts: Distribution, sentence: str) -> Figure:
    if facts.score == "accuracy":
        queries = results.meta["ways"] * results.meta["queries"]
        edges = _accuracy_edges(facts.values, facts.reference_values, queries)
    else:
        edges = _error_edges(np.concatenate([facts.values, facts.reference_values]))
    name = wording.name_score(facts.score)
    x_axis = {
        "axis": build_score_axis(facts.score, f"{name} per episode"),
        "scale": alt.Scale(
            type="linear" if facts.score == "accuracy" else "log",
            domain=[float(edges[0]), float(edges[-1])],
            nice=False,
        ),
    }
    bars = _histogram(facts.score, facts.values, edges, "this model")
    behind = _histogram(
        facts.score, facts.reference_values, edges, wording.name_baseline(facts.reference)
    )
    summary = {"mean": facts.mean} | facts.quantiles
    chart = charts.draw_distribution(bars, behind, summary, x_axis, "share of episodes")
    description = f"Histogram of the {name} per test episode."
    return build_figure("distribution", chart, description, sentence, 220)


def _accuracy_edges(values: np.ndarray, behind: np.ndarray, queries: int) -> np.ndarray:
    """Return the edges of at most 40 bins.

    Each bin covers the same number of possible values k / queries, so the histogram has no
    comb-like gaps.
    """
    first = round(float(min(values.min(), behind.min() if len(behind) else 1.0)) * queries)
    width = -(-(queries - first + 1) // 40)
    start = queries + 1 - width * -(-(queries - first + 1) // width)
    return (np.arange(start, queries + 2, width) - 0.5) / queries


def _error_edges(values: np.ndarray) -> np.ndarray:
    """Return the edges of 30 bins of equal width on a logarithmic axis."""
    low = max(float(values.min()), 1e-6)
    return np.geomspace(low * 0.999, max(float(values.max()), low * 1.01) * 1.001, 31)


def _histogram(score: str, values: np.ndarray, edges: np.ndarray, name: str) -> pd.DataFrame:
    counts, _ = np.histogram(np.maximum(values, edges[0]), edges)
    show, most = wording.choose_formatter(score), 1.0 if score == "accuracy" else np.inf
    frame = pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "episodes": counts,
            "share": counts / max(len(values), 1),
            "of": name,
            "range": [
                f"{show(max(low, 0.0))} and {show(min(high, most))}"
                for low, high in pairwise(edges.tolist())
            ],
        }
    )
    return frame[frame["episodes"] > 0].reset_index(drop=True)
