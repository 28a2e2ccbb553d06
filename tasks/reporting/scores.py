"""How good and how sure: the headline beside baselines and published figures, and its distribution over episodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tasks import charts
from tasks.reporting import published, words
from tasks.reporting.parts import Figure, Section, Table, axis, axis_title, chance, dot_figure, numbers, row
from tasks.reporting.results import Results


def baselines(results: Results) -> Iterator[tuple[str, float, float | None]]:
    """Name, value and half-width of each baseline of metrics.json, best first."""
    found = {key.split(".")[1] for key in results.metrics if key.startswith("baselines.")}
    figures = [(m, results.metrics.get(f"baselines.{m}.{results.score}"), results.metrics.get(f"baselines.{m}.{results.score}_ci95")) for m in found]
    better = -1 if results.score == "accuracy" else 1
    yield from sorted(((m, v, c) for m, v, c in figures if v is not None), key=lambda f: (better * f[1], f[0]))


def comparison(results: Results, raw: dict[str, Any]) -> Section:
    score, value, ci95 = results.score, results.metrics[results.score], results.metrics[f"{results.score}_ci95"]
    same, others = published.figures(published.protocol(results, raw))
    episodes = words.count(results.metrics["episodes"], "test episode")
    rows = [row(results, f"this model ({results.config['algorithm']['name']}, {results.config['model']['name']})", value, ci95, "model", episodes)]
    known = list(baselines(results))
    rows += [row(results, words.METHODS.get(m, m), v, c, "baseline", "by definition" if m == "chance" else episodes, "square") for m, v, c in known]
    for line in same.to_dict("records"):
        name = f"{line['method']}, {line['network']} ({line['source']})"
        rows.append(row(results, name, line["value"], line["high"] - line["value"], "published", line["note"] or line["source"], "diamond"))
    rows.sort(key=lambda r: (-r["value"] if score == "accuracy" else r["value"], r["name"]))
    best, best_value, best_ci95 = known[0]
    ahead = value - best_value if score == "accuracy" else best_value - value
    gap = words.points(ahead) if score == "accuracy" else f"{words.number(abs(ahead))}"
    apart = "their intervals do not meet" if abs(ahead) > ci95 + (best_ci95 or 0) else "their intervals overlap"
    side = ("above" if score == "accuracy" else "below") if ahead >= 0 else ("below" if score == "accuracy" else "above")
    shown = words.percent(best_value) if score == "accuracy" else words.number(best_value)
    sentence = f"The model is {gap} {side} the best baseline ({words.METHODS.get(best, best)}, {shown}); {apart}."
    notes = [_beside(results, value, ci95, same, others)]
    if results.mode == "transductive" and results.other_mode:
        notes.append("Transductive: the statistics of batch norm are those of the query set, which helps; the inductive figure stands further down.")
    tables = [numbers("The figures of the chart", results, rows)]
    if len(others):
        cells = [[o["method"], o["network"], words.figure(score, o["value"], o["high"] - o["value"]), o["differs"], o["note"], o["source"]] for o in others.to_dict("records")]
        caption = f"Figures under other protocols ({results.meta['ways']}-way {results.meta['shots']}-shot {results.meta['dataset']}): not to be compared without care"
        tables.append(Table(caption, ["method", "network", axis_title(results), "differs in", "note", "source"], cells, frozenset({2}), others["link"].tolist()))
    drawn = f"{axis_title(results).capitalize()} of the model, {words.count(len(known), 'baseline')} and {words.count(len(same), 'published or reference figure')} with 95 % intervals. "
    return Section("proportion", "In proportion", sentence, [dot_figure(results, "comparison", rows, drawn + sentence, chance(results))], notes, tables)


def _beside(results: Results, value: float, ci95: float, same: pd.DataFrame, others: pd.DataFrame) -> str:
    """What is known from elsewhere, or that nothing is."""
    if len(same):
        said = []
        for line in same.to_dict("records"):
            gap, shown = value - line["value"], words.figure(results.score, line["value"], line["high"] - line["value"])
            size = words.points(gap) if results.score == "accuracy" else words.number(abs(gap))
            where = f"{size} {'above' if gap > 0 else 'below'} it"
            half = 0.0 if np.isnan(line["high"]) else line["high"] - line["value"]
            if abs(gap) <= ci95 + half:
                where += ", within the intervals"
            said.append(f"{line['method']} ({line['network']}, {line['source']}) has {shown}: this model is {where}.")
        return "Under the same protocol: " + " ".join(said)
    if len(others):
        return f"No figure known to us has exactly this protocol; {words.count(len(others), 'figure')} under other protocols are listed below and not drawn."
    return f"No figure is published for {results.meta['ways']}-way {results.meta['shots']}-shot {results.meta['dataset']}: baselines alone are drawn."


def distribution(results: Results) -> Section:
    score, values = results.score, results.headline[results.score].to_numpy()
    finite = values[np.isfinite(values)]
    best = next((m for m, *_ in baselines(results) if m in set(results.baselines["method"])), None)
    behind = results.baselines.loc[results.baselines["method"] == best, score].to_numpy()
    behind = behind[np.isfinite(behind)]
    q = {f"q{p:02d}": float(np.quantile(finite, p / 100)) for p in (5, 25, 50, 75, 95)}
    shown = words.percent if score == "accuracy" else words.number
    if score == "accuracy":
        edges = _accuracy_edges(finite, behind, results.meta["ways"] * results.meta["queries"])
        scale = alt.Scale(domain=[float(edges[0]), float(edges[-1])], nice=False)
        sentence = f"Half of the episodes lie between {shown(q['q25'])} and {shown(q['q75'])}; one in twenty is below {shown(q['q05'])}, and the worst has {shown(finite.min())}."
    else:
        low, high = (max(float(f(np.concatenate([finite, behind]))), 1e-6) for f in (np.min, np.max))
        edges = np.geomspace(low * 0.999, max(high, low * 1.01) * 1.001, 31)
        scale = alt.Scale(type="log", domain=[float(edges[0]), float(edges[-1])], nice=False)
        away = int(results.metrics.get("diverged", len(values) - len(finite)))
        end = f"{words.count(away, 'episode')} of {len(values):,} diverged" if away else "none diverged"
        sentence = f"Half of the episodes err by less than {shown(q['q50'])}, one in twenty by more than {shown(q['q95'])}; {end}."
    bars = _histogram(finite, edges, "this model", shown)
    summary = {"mean": float(finite.mean())} | q
    chart = charts.distribution(bars, _histogram(behind, edges, words.METHODS.get(str(best), str(best)), shown), summary, {"axis": axis(results, f"{axis_title(results)} of an episode"), "scale": scale}, "share of episodes")  # fmt: skip
    names = ["mean", "5 %", "25 %", "median", "75 %", "95 %", "worst"]
    figures = [float(finite.mean()), *q.values(), float(finite.min() if score == "accuracy" else finite.max())]
    table = Table(f"Quantiles over {words.count(len(finite), 'episode')}", ["", axis_title(results)], [[n, shown(f)] for n, f in zip(names, figures, strict=True)], frozenset({1}))  # fmt: skip
    notes = [f"Dot: mean; thick line: the middle half; thin line: 5 to 95 %. The 95 % interval of the mean, {words.figure(score, results.metrics[score], results.metrics[f'{score}_ci95'])}, is over episodes; other seeds of the training would spread on their own."]  # fmt: skip
    return Section("episodes", "How sure", sentence, [Figure("distribution", charts.page_spec(chart, 220), f"Histogram of the {axis_title(results)} of single test episodes. {sentence}")], notes, [table])  # fmt: skip


def _accuracy_edges(values: np.ndarray, behind: np.ndarray, answers: int) -> np.ndarray:
    """Bins that hold equally many of the values k / answers, so that the histogram shows no comb; at most 40."""
    first = round(float(min(values.min(), behind.min() if len(behind) else 1.0)) * answers)
    width = -(-(answers - first + 1) // 40)
    start = answers + 1 - width * -(-(answers - first + 1) // width)
    return (np.arange(start, answers + 2, width) - 0.5) / answers


def _histogram(values: np.ndarray, edges: np.ndarray, of: str, shown: Any) -> pd.DataFrame:
    counts, _ = np.histogram(values, edges)
    frame = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "episodes": counts, "share": counts / max(len(values), 1), "of": of})
    last = 1.0 if shown is words.percent else np.inf
    frame["range"] = [f"{shown(max(low, 0.0))} and {shown(min(high, last))}" for low, high in pairwise(edges.tolist())]
    return frame[frame["episodes"] > 0].reset_index(drop=True)
