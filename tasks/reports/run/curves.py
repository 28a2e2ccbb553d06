"""Curves: validation during training, adaptation by inner step, and the batch-norm modes."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import Line
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
    choose_score_domain,
    compute_chance_level,
)
from tasks.reports.run import sentences
from tasks.reports.run.facts import compare_modes, measure_adaptation, measure_learning

MAX_POINTS = 300
"""Maximum number of points of a training curve; each is a mean of neighbouring iterations."""

LABELS_GAP = 0.075
"""Minimum distance of two names at the lines' ends, relative to the height of the chart."""


# --- learning curve ----------------------------------------------------------------------------


def build_learning_section(results: Results) -> ReportSection:
    """Build the section with the training and validation scores over the iterations."""
    score, validation = results.score, results.validation
    if not results.was_trained:
        row = validation.iloc[0]
        value = wording.format_estimate(score, row[score], row[f"{score}_ci95"])
        sentence = sentences.describe_untrained_score(value)
        return ReportSection("learning", "Learning curve", sentence)
    sentence = sentences.describe_learning(measure_learning(results))
    rows = [
        [
            f"{int(row['iteration']):,}",
            wording.format_estimate(score, row[score], row[f"{score}_ci95"]),
            wording.format_number(row["loss"]),
            "yes" if row["best"] else "",
        ]
        for row in validation.to_dict("records")
    ]
    head = ["iteration", wording.name_score(score), "loss", "best so far"]
    table = Table("Validation during training", head, rows, frozenset({0, 1, 2}))
    figure, notes = _draw_learning(results, sentence), [sentences.LEARNING_NOTE]
    return ReportSection("learning", "Learning curve", sentence, [figure], notes, [table])


def _draw_learning(results: Results, sentence: str) -> Figure:
    column = "accuracy" if results.kind == "classification" else "loss"
    train = _thin(results.train.dropna(subset=[column]))
    raw = pd.DataFrame({"x": train["iteration"], "y": train[column]})
    window = max(3, len(raw) // 15)
    smooth = raw.assign(y=raw["y"].rolling(window, center=True, min_periods=1).mean())
    smooth["value"] = [wording.format_estimate(results.score, y) for y in smooth["y"]]
    validation = _with_band(results, results.validation["iteration"], results.validation)
    best = float(results.config["iteration"])
    lines = [
        Line("", "training", raw, faint=True),
        Line("training", "training", smooth, points=False, width=2),
        Line("validation", "model", validation),
    ]
    values = pd.concat([raw["y"], validation["low"], validation["high"]])
    low, high = choose_score_domain(results, values)
    last = max(int(results.config["iterations"]), int(validation["x"].max()), int(raw["x"].max()))
    name = wording.name_score(results.score)
    chart = charts.draw_curves(
        lines,
        {
            "axis": alt.Axis(title="iteration", format=",d", tickCount=5),
            "scale": alt.Scale(domain=[0, last], nice=False),
        },
        {
            "axis": build_score_axis(results.score),
            "scale": alt.Scale(domain=[low, high], nice=False),
        },
        labels_gap=LABELS_GAP * (high - low),
        marks=[(best, "best checkpoint")] if best else [],
        marks_above=results.score == "mse",
        rule=_chance_rule(results),
        tooltip=[
            alt.Tooltip("x:Q", title="iteration", format=",d"),
            alt.Tooltip("value:N", title=name),
        ],
    )
    description = f"Training and validation {name} over the iterations."
    return build_figure("learning", chart, description, sentence)


def _thin(history: pd.DataFrame) -> pd.DataFrame:
    step = -(-len(history) // MAX_POINTS)
    if step <= 1:
        return history
    return history.groupby(np.arange(len(history)) // step).mean().reset_index(drop=True)


# --- adaptation curve --------------------------------------------------------------------------


def build_adaptation_section(results: Results) -> ReportSection:
    """Build the section with the score after each number of inner steps."""
    if not results.adapts:
        sentence = sentences.describe_missing_steps(results.is_transductive)
        return ReportSection("adaptation", "Adaptation curve", sentence)
    modes = {results.mode: "model"} | ({results.other_mode: "other"} if results.other_mode else {})
    curves = {mode: results.adaptation_curve(mode) for mode in modes}
    sentence = sentences.describe_adaptation(
        measure_adaptation(results.score, curves[results.mode])
    )
    return ReportSection(
        "adaptation",
        "Adaptation curve",
        sentence,
        [_draw_adaptation(results, curves, modes, sentence)],
        sentences.list_adaptation_notes(results.metrics.get("after_10.diverged")),
        [_adaptation_table(results.score, curves)],
    )


def _draw_adaptation(
    results: Results, curves: dict[str, pd.DataFrame], colours: dict[str, str], sentence: str
) -> Figure:
    """Draw the curve in both modes if they differ; for an error, its median too."""
    score, curve = results.score, curves[results.mode]
    lines = []
    for mode, colour in colours.items():
        name = mode if results.other_mode else "mean" if score == "mse" else "this model"
        data = _with_band(results, curves[mode]["step"], curves[mode])
        lines.append(Line(name, colour, data, dash=(1, 0) if colour == "model" else (6, 3)))
    if "mse_median" in curve:
        median = pd.DataFrame({"x": curve["step"], "y": curve["mse_median"]})
        median["value"] = [wording.format_number(y) for y in median["y"]]
        lines.append(Line("median", "model", median, dash=(6, 3)))
    for line in lines:
        line.data["episodes"] = int(results.metrics["episodes"])
    low, high = choose_score_domain(results, _converged_values(lines, curve, score))
    first, last = int(curve["step"].min()), int(curve["step"].max())
    name = wording.name_score(score)
    chart = charts.draw_curves(
        lines,
        {
            "axis": alt.Axis(title="inner steps", format="d", values=curve["step"].tolist()),
            "scale": alt.Scale(domain=[first, last], nice=False),
        },
        {"axis": build_score_axis(score), "scale": alt.Scale(domain=[low, high], nice=False)},
        labels_gap=LABELS_GAP * (high - low),
        marks=_step_marks(results, last),
        marks_above=score == "mse",
        rule=_chance_rule(results),
        tooltip=[
            alt.Tooltip("x:Q", title="inner steps"),
            alt.Tooltip("value:N", title=name),
            alt.Tooltip("episodes:Q", format=",d"),
        ],
    )
    description = f"{name.capitalize()} after {first} to {last} inner steps."
    return build_figure("adaptation", chart, description, sentence)


def _converged_values(lines: list[Line], curve: pd.DataFrame, score: str) -> pd.Series:
    """Return the values up to where episodes diverge; a diverged mean may leave the frame."""
    converged = np.full(len(curve), True)
    if "diverged" in curve:
        converged = curve["diverged"].to_numpy() == 0
    if not converged.any():
        return curve[score]
    return pd.concat(
        [
            line.data[column][converged[: len(line.data)]]
            for line in lines
            for column in ("y", "low", "high")
            if column in line.data
        ]
    )


def _step_marks(results: Results, last: int) -> list[tuple[float, str]]:
    """Return the numbers of inner steps in training and of the headline score."""
    trained, tested = results.config["algorithm"].get("inner_steps"), results.steps
    if trained == tested:
        return [(float(tested), f"{tested} in training and at test time")]
    return [
        (float(steps), f"{steps} {name}")
        for steps, name in ((trained, "in training"), (tested, "at test time"))
        if steps is not None and steps <= last
    ]


def _adaptation_table(score: str, curves: dict[str, pd.DataFrame]) -> Table:
    first, name = next(iter(curves.values())), wording.name_score(score)
    columns = {"inner steps": [str(int(step)) for step in first["step"]]}
    for mode, curve in curves.items():
        scores = zip(curve[score], curve[f"{score}_ci95"], strict=True)
        head = f"{name}, {mode}" if len(curves) > 1 else name
        columns[head] = [wording.format_estimate(score, value, half) for value, half in scores]
    if "mse_median" in first:
        columns["median"] = [wording.format_number(value) for value in first["mse_median"]]
    if "diverged" in first:
        columns["episodes diverged"] = [f"{int(number):,}" for number in first["diverged"]]
    rows = [list(cells) for cells in zip(*columns.values(), strict=True)]
    return Table("Score by inner step", list(columns), rows, frozenset(range(len(columns))))


# --- batch-norm modes --------------------------------------------------------------------------


def build_mode_sections(results: Results) -> list[ReportSection]:
    """Build the section that compares the batch-norm modes; none if one mode was measured."""
    heading = "Transductive and inductive batch norm"
    if results.curve["mode"].nunique() < 2:
        return []
    facts = compare_modes(results)
    if facts is None:
        return [ReportSection("statistics", heading, sentences.SAME_IN_BOTH_MODES)]
    detail = wording.format_count(results.metrics["episodes"], "test episode")
    dots = [
        build_score_dot(results.score, mode, value, ci95, detail, colour=colour)
        for (mode, value, ci95), colour in ((facts.headline, "model"), (facts.other, "other"))
    ]
    sentence, notes = sentences.describe_modes(facts), sentences.list_mode_notes(results.mode)
    table = build_dot_table("Values of the chart", results.score, dots)
    figure = build_dot_figure(results.score, "statistics", dots, sentence)
    return [ReportSection("statistics", heading, sentence, [figure], notes, [table])]


# --- shared ------------------------------------------------------------------------------------


def _with_band(results: Results, x: pd.Series, table: pd.DataFrame) -> pd.DataFrame:
    """Return the data of a line with its 95 % band and its values as text."""
    score = results.score
    value, half = table[score], table[f"{score}_ci95"].fillna(0)
    most = 1.0 if score == "accuracy" else np.inf
    texts = [wording.format_estimate(score, v, h) for v, h in zip(value, half, strict=True)]
    high = (value + half).clip(upper=most)
    return pd.DataFrame({"x": x, "y": value, "low": value - half, "high": high, "value": texts})


def _chance_rule(results: Results) -> tuple[float, str] | None:
    level = compute_chance_level(results)
    return None if level is None else (level, "chance")
