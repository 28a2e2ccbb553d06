"""How it got there: the course of the training, of the adaptation, and what batch norm's statistics add."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks import charts
from tasks.reporting import parts, words
from tasks.reporting.parts import Figure, Section, Table, axis, axis_title, chance, dot_figure, numbers, row
from tasks.reporting.results import Results


def learning(results: Results) -> Section:
    score, validation = results.score, results.validation
    column = score if score == "accuracy" else "loss"
    train = _thinned(results.train.dropna(subset=[column]), 300)
    raw = pd.DataFrame({"x": train["iteration"], "y": train[column]})
    smooth = raw.assign(y=raw["y"].rolling(max(3, len(raw) // 15), center=True, min_periods=1).mean())
    half = validation[f"{score}_ci95"].fillna(0)
    checked = pd.DataFrame({"x": validation["iteration"], "y": validation[score], "low": validation[score] - half, "high": validation[score] + half})
    checked["figure"] = [words.figure(score, v, h) for v, h in zip(validation[score], half, strict=True)]
    smooth["figure"] = [words.percent(v) if score == "accuracy" else words.number(v) for v in smooth["y"]]
    best, iterations = int(results.config["iteration"]), int(results.config["iterations"])
    domain = parts.domain(results, pd.concat([raw["y"], checked["low"], checked["high"]]))
    last = max(iterations, int(checked["x"].max()), int(raw["x"].max()))
    x = {"axis": alt.Axis(title="iteration", format=",d", tickCount=5), "scale": alt.Scale(domain=[0, last], nice=False)}
    y = {"axis": axis(results), "scale": alt.Scale(domain=domain, nice=False)}
    lines = [
        {"name": "", "colour": "training", "data": raw, "faint": True},
        {"name": "training", "colour": "training", "data": smooth, "points": False, "width": 2},
        {"name": "validation", "colour": "model", "data": checked},
    ]
    tooltip = [alt.Tooltip("x:Q", title="iteration", format=",d"), alt.Tooltip("figure:N", title=axis_title(results))]
    marks = [(float(best), "best")] if best else []
    floor = chance(results)
    chart = charts.curves(lines, x, y, 0.075 * (domain[1] - domain[0]), marks, (floor, "chance") if floor else None, tooltip)
    sentence = words.learning(score, validation, best, iterations)
    cells = [[f"{int(v['iteration']):,}", words.figure(score, v[score], v[f"{score}_ci95"]), words.number(v["loss"]), "best so far" if v["best"] else ""] for v in validation.to_dict("records")]  # fmt: skip
    table = Table("Validation during training", ["iteration", axis_title(results), "loss", ""], cells, frozenset({0, 1, 2}))
    notes = ["Training is smoothed (single measurements faint); validation with its 95 % interval over the fixed validation episodes. The model of this report is the best by validation."]
    return Section("learning", "How it learned", sentence, [Figure("learning", charts.page_spec(chart), f"Training and validation {axis_title(results)} over the iterations. {sentence}")], notes, [table])  # fmt: skip


def _thinned(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """At most `rows` rows: means over neighbours."""
    step = -(-len(table) // rows)
    return table if step <= 1 else table.groupby(np.arange(len(table)) // step).mean().reset_index(drop=True)


def adaptation(results: Results) -> Section:
    score, lines, frames = results.score, [], []
    for mode, colour in ((results.mode, "model"), (results.other_mode, "other")):
        if mode is not None:
            course = results.course(mode)
            half = course[f"{score}_ci95"].fillna(0)
            frame = pd.DataFrame({"x": course["step"], "y": course[score], "low": course[score] - half, "high": course[score] + half})
            if score == "accuracy":
                frame["high"] = frame["high"].clip(upper=1.0)
            frame["figure"], frame["n"] = [words.figure(score, v, h) for v, h in zip(course[score], half, strict=True)], int(results.metrics["episodes"])
            name = mode if results.other_mode else "mean" if "mse_median" in course else "this model"
            lines.append({"name": name, "colour": colour, "data": frame, "dash": [1, 0] if colour == "model" else [6, 3]})
            frames.append((mode, course))
    course = frames[0][1]
    if "mse_median" in course:
        frame = pd.DataFrame({"x": course["step"], "y": course["mse_median"], "n": int(results.metrics["episodes"])})
        lines.append({"name": "median", "colour": "model", "data": frame.assign(figure=[words.number(v) for v in frame["y"]]), "dash": [6, 3]})
    domain = parts.domain(results, pd.concat([v for line in lines for v in (line["data"]["y"], line["data"].get("low", line["data"]["y"]))]))
    trained = results.config["algorithm"].get("inner_steps")
    marks = [(float(trained), f"{trained} in training")] if trained is not None and trained <= course["step"].max() else []
    marks = [(float(results.steps), f"{trained} in training and here")] if trained == results.steps else [*marks, (float(results.steps), f"{results.steps} in the headline")]
    floor = chance(results)
    x = {"axis": alt.Axis(title="inner steps", format="d", values=course["step"].tolist()), "scale": alt.Scale(domain=[int(course["step"].min()), int(course["step"].max())], nice=False)}  # fmt: skip
    tooltip = [alt.Tooltip("x:Q", title="inner steps"), alt.Tooltip("figure:N", title=axis_title(results)), alt.Tooltip("n:Q", title="episodes", format=",d")]
    chart = charts.curves(lines, x, {"axis": axis(results), "scale": alt.Scale(domain=domain, nice=False)}, 0.075 * (domain[1] - domain[0]), marks, (floor, "chance") if floor else None, tooltip)  # fmt: skip
    sentence = words.adaptation(score, course)
    head, cells = ["inner steps"], [[str(int(s))] for s in course["step"]]
    for mode, part in frames:
        head.append(f"{axis_title(results)}{f', {mode}' if results.other_mode else ''}")
        for cell, value, half in zip(cells, part[score], part[f"{score}_ci95"], strict=False):
            cell.append(words.figure(score, value, half))
    for column, title, shown in (("mse_median", "median", words.number), ("diverged", "episodes diverged", lambda v: f"{int(v):,}")):
        if column in course:
            head.append(title)
            for cell, value in zip(cells, course[column], strict=True):
                cell.append(shown(value))
    table = Table("After each number of inner steps", head, cells, frozenset(range(len(head))))
    notes = ["Each step is one gradient step on the support set; the figure is measured on the query set, with its 95 % interval over test episodes."]
    if results.metrics.get("after_10.diverged"):
        notes.append(f"After ten steps {words.count(results.metrics['after_10.diverged'], 'episode')} diverged: the mean follows them, the median does not.")
    return Section("adaptation", "How it adapts", sentence, [Figure("adaptation", charts.page_spec(chart), f"{axis_title(results).capitalize()} after 0 to {int(course['step'].max())} inner steps. {sentence}")], notes, [table])  # fmt: skip


def modes(results: Results) -> list[Section]:
    """Both ways of normalising, after the headline's number of steps."""
    heading = "Transductive and inductive"
    if results.other_mode is None:
        return [Section("statistics", heading, "Both ways of normalising give the same figures: the network has no batch norm.")] if results.curve["mode"].nunique() > 1 else []
    episodes = words.count(results.metrics["episodes"], "test episode")
    rows = []
    for mode, colour in ((results.mode, "model"), (results.other_mode, "other")):
        at = results.course(mode).query("step == @results.steps").iloc[0]
        rows.append(row(results, mode, at["accuracy"], at["accuracy_ci95"], colour, episodes))
    gap = rows[0]["value"] - rows[1]["value"]
    first, second = rows[0]["name"].capitalize(), rows[1]["name"]
    sentence = f"{first} batch statistics score {words.points(gap)} {'above' if gap >= 0 else 'below'} {second} ones, with the same weights on the same episodes."
    notes = [
        "Transductive: batch norm takes its statistics from the whole query set, so that one query's answer depends on the others. "
        "Inductive: from the support set alone, as if queries came one by one. The weights were trained " + results.mode + "."
    ]
    return [Section("statistics", heading, sentence, [dot_figure(results, "statistics", rows, sentence)], notes, [numbers("The figures of the chart", results, rows)])]
