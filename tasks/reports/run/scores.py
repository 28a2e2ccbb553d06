"""How good and how sure: the headline beside baselines and published figures, and its distribution over episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks.reports.kit import charts, published, wording
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import (
    Section,
    Table,
    axis,
    axis_title,
    chance,
    dot_figure,
    figure,
    numbers,
    row,
)


def baselines(results: Results) -> Iterator[tuple[str, float, float | None]]:
    """Name, value and half-width of each baseline of metrics.json, best first."""
    score, metrics = results.score, results.metrics
    names = {
        key.split(".")[1]
        for key in metrics
        if key.startswith("baselines.") and key.endswith(f".{score}")
    }
    better = -1 if score == "accuracy" else 1
    for name in sorted(
        names, key=lambda name: (better * metrics[f"baselines.{name}.{score}"], name)
    ):
        yield (
            name,
            metrics[f"baselines.{name}.{score}"],
            metrics.get(f"baselines.{name}.{score}_ci95"),
        )


def comparison(results: Results, raw: dict[str, Any]) -> Section:
    """The headline among baselines and figures of the same protocol; `raw` is params.yaml."""
    score, config, episodes = (
        results.score,
        results.config,
        wording.count(results.metrics["episodes"], "test episode"),
    )
    value, ci95 = results.metrics[score], results.metrics[f"{score}_ci95"]
    same, others = published.figures(published.protocol(results, raw))
    rows = [
        row(
            results,
            f"this model ({config['algorithm']['name']}, {config['model']['name']})",
            value,
            ci95,
            "model",
            episodes,
        )
    ]
    known = list(baselines(results))
    seen = {
        str(name): int(count)
        for name, count in results.baselines["method"].value_counts(sort=False).items()
    }
    for name, theirs, half in known:
        detail = (
            "by definition"
            if name == "chance"
            else wording.count(seen.get(name, results.metrics["episodes"]), "test episode")
        )
        rows.append(
            row(
                results, wording.METHODS.get(name, name), theirs, half, "baseline", detail, "square"
            )
        )
    for line in same.to_dict("records"):
        name = f"{line['method']}, {line['network']} ({line['source']})"
        drawn = row(
            results,
            name,
            line["value"],
            line["half"],
            "published",
            line["note"] or line["source"],
            "diamond",
        )
        rows.append(drawn | {"text": line["printed"]})
    rows.sort(key=lambda r: (-r["value"] if score == "accuracy" else r["value"], r["name"]))

    sentence = _ahead(results, value, ci95, *known[0])
    notes = [_beside(results, value, ci95, same, others)]
    if results.mode == "transductive" and results.other_mode:
        notes.append(
            "Transductive: batch norm takes its statistics from the query set, which helps; the inductive figure stands further down."
        )
    notes += [
        f"{wording.METHODS.get(name, name).capitalize()} was measured on the first {count:,} test episodes."
        for name, count in seen.items()
        if count < results.metrics["episodes"]
    ]
    if "rejection.auroc" in results.metrics:
        auroc = wording.figure(
            "accuracy", results.metrics["rejection.auroc"], results.metrics["rejection.auroc_ci95"]
        )
        notes.append(
            "Sentences of no class: the probability of the answer is higher for a query of the episode than for one that belongs nowhere "
            f"in {auroc} of pairs (area under the ROC curve; chance: 50 %)."
        )
    tables = [numbers("The figures of the chart", results, rows)]
    if len(others):
        tables.append(_others(results, others))
    outside = wording.count(len(same), "published or reference figure")
    what = f"{axis_title(results).capitalize()} of the model, {wording.count(len(known), 'baseline')} and {outside} with 95 % intervals."
    picture = dot_figure(results, "comparison", rows, f"{what} {sentence}", chance(results))
    return Section("proportion", "In proportion", sentence, [picture], notes, tables)


def _ahead(
    results: Results, value: float, ci95: float, method: str, best: float, best_ci95: float | None
) -> str:
    """The model against the best baseline."""
    name = wording.METHODS.get(method, method)
    meet = (
        "their intervals do not meet"
        if abs(value - best) > ci95 + (best_ci95 or 0.0)
        else "their intervals overlap"
    )
    if results.score == "accuracy":
        side = "above" if value >= best else "below"
        return f"The model is {wording.points(value - best)} {side} the best baseline ({name}, {wording.percent(best)}); {meet}."
    if 0 < value < best:
        return f"The error is {best / value:.1f} times smaller than that of the best baseline ({name}, {wording.number(best)}); {meet}."
    return f"The error is {wording.number(value)}, that of the best baseline ({name}) {wording.number(best)}; {meet}."


def _beside(
    results: Results, value: float, ci95: float, same: pd.DataFrame, others: pd.DataFrame
) -> str:
    """What is known from elsewhere, or that nothing is."""
    if len(others) and same.empty:
        count = wording.count(len(others), "figure")
        return f"No figure known to us has exactly this protocol; {count} under other protocols are listed below and not drawn."
    if same.empty and results.kind == "regression":
        return "No figure of this protocol is known to us: baselines alone are drawn."
    if same.empty:
        meta = results.meta
        return f"No figure is published for {meta['ways']}-way {meta['shots']}-shot {meta['dataset']}: baselines alone are drawn."
    said = ["Under the same protocol:"]
    for line in same.to_dict("records"):
        gap, half = value - line["value"], 0.0 if np.isnan(line["half"]) else line["half"]
        size = wording.points(gap) if results.score == "accuracy" else wording.number(abs(gap))
        where = f"{size} {'above' if gap > 0 else 'below'} it" + (
            ", within the intervals" if abs(gap) <= ci95 + half else ""
        )
        said.append(
            f"{line['method']} ({line['network']}, {line['source']}) has {line['printed']}: this model is {where}."
        )
    return " ".join(said)


def _others(results: Results, others: pd.DataFrame) -> Table:
    meta = results.meta
    caption = f"{meta['ways']}-way {meta['shots']}-shot {meta['dataset']} under other protocols: not to be compared without care"
    head = ["method", "network", axis_title(results), "differs in", "note", "source"]
    cells = [
        [o["method"], o["network"], o["printed"], o["differs"], o["note"], o["source"]]
        for o in others.to_dict("records")
    ]
    return Table(caption, head, cells, frozenset({2}), others["link"].tolist())


def distribution(results: Results) -> Section:
    """A histogram over test episodes, in front of the best baseline's."""
    score, metrics, values = (
        results.score,
        results.metrics,
        results.headline[results.score].to_numpy(),
    )
    mine = values[np.isfinite(values)]
    measured = set(results.baselines["method"])
    best = next((name for name, *_ in baselines(results) if name in measured), "")
    theirs = results.baselines.loc[results.baselines["method"] == best, score].to_numpy()
    theirs = theirs[np.isfinite(theirs)]
    q = {f"q{p:02d}": float(np.quantile(mine, p / 100)) for p in (5, 25, 50, 75, 95)}
    shown: Callable[[float], str] = wording.percent if score == "accuracy" else wording.number
    scale: Any = "linear" if score == "accuracy" else "log"
    if score == "accuracy":
        edges, worst = (
            _accuracy_edges(mine, theirs, results.meta["ways"] * results.meta["queries"]),
            float(mine.min()),
        )
        middle = f"Half of the episodes lie between {shown(q['q25'])} and {shown(q['q75'])}"
        sentence = (
            f"{middle}; one in twenty is below {shown(q['q05'])}, and the worst has {shown(worst)}."
        )
    else:
        edges, worst = _error_edges(np.concatenate([mine, theirs])), float(mine.max())
        diverged = int(metrics.get("diverged", len(values) - len(mine)))
        end = (
            f"{wording.count(diverged, 'episode')} of {len(values):,} diverged"
            if diverged
            else "none diverged"
        )
        sentence = f"Half of the episodes err by less than {shown(q['q50'])}, one in twenty by more than {shown(q['q95'])}; {end}."
    x = {
        "axis": axis(results, f"{axis_title(results)} of an episode"),
        "scale": alt.Scale(type=scale, domain=[float(edges[0]), float(edges[-1])], nice=False),
    }
    mean = float(mine.mean())
    bars, behind = (
        _histogram(mine, edges, "this model", shown),
        _histogram(theirs, edges, wording.METHODS.get(best, best), shown),
    )
    chart = charts.distribution(bars, behind, {"mean": mean} | q, x, "share of episodes")
    names, figures = (
        ["mean", "5 %", "25 %", "median", "75 %", "95 %", "worst"],
        [mean, *q.values(), worst],
    )
    cells = [[name, shown(value)] for name, value in zip(names, figures, strict=True)]
    table = Table(
        f"Quantiles over {wording.count(len(mine), 'episode')}",
        ["", axis_title(results)],
        cells,
        frozenset({1}),
    )
    notes = [
        "Dot: mean; thick line: the middle half; thin line: 5 to 95 %. The 95 % interval of the mean, "
        f"{wording.figure(score, metrics[score], metrics[f'{score}_ci95'])}, is over episodes; the spread over seeds is another."
    ]
    spread = metrics.get("labels.accuracy_sd")
    if spread is not None:
        moved = f"moves the accuracy by {wording.points(spread)} (standard deviation over {int(metrics['labels.renamings'])} numberings)"
        notes.append(f"Which output a class gets {moved if spread > 5e-4 else 'does not count'}.")
    drawn = figure(
        "distribution",
        chart,
        f"Histogram of the {axis_title(results)} of single test episodes.",
        sentence,
        220,
    )
    return Section("episodes", "How sure", sentence, [drawn], notes, [table])


def _accuracy_edges(values: np.ndarray, behind: np.ndarray, answers: int) -> np.ndarray:
    """Bins that hold equally many of the values k / answers, so that the histogram shows no comb; at most 40."""
    first = round(float(min(values.min(), behind.min() if len(behind) else 1.0)) * answers)
    width = -(-(answers - first + 1) // 40)
    start = answers + 1 - width * -(-(answers - first + 1) // width)
    return (np.arange(start, answers + 2, width) - 0.5) / answers


def _error_edges(values: np.ndarray) -> np.ndarray:
    """30 bins of equal width on a logarithmic axis."""
    low = max(float(values.min()), 1e-6)
    return np.geomspace(low * 0.999, max(float(values.max()), low * 1.01) * 1.001, 31)


def _histogram(
    values: np.ndarray, edges: np.ndarray, of: str, shown: Callable[[float], str]
) -> pd.DataFrame:
    counts, _ = np.histogram(np.maximum(values, edges[0]), edges)
    frame = pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "episodes": counts,
            "share": counts / max(len(values), 1),
            "of": of,
        }
    )
    last = 1.0 if shown is wording.percent else np.inf
    frame["range"] = [
        f"{shown(max(low, 0.0))} and {shown(min(high, last))}"
        for low, high in pairwise(edges.tolist())
    ]
    return frame[frame["episodes"] > 0].reset_index(drop=True)
