"""Build the table of the method benchmark from its cells: results.csv, results.md, results.svg."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from episodic.core.statistics import mean_ci95
from tasks.params import read_yaml
from tasks.reports.kit import charts, published, wording
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, read_json, write_text
from tasks.runtime.stage import StageError

BASELINE = "maml"
"""The algorithm that all others are compared with."""

PUBLISHED_NAMES = {
    "anil": "ANIL",
    "boil": "BOIL",
    "finetune": "fine-tuning",
    "fomaml": "first-order MAML",
    "imaml": "iMAML (GD)",
    "maml": "MAML",
    "maml_plus_plus": "MAML++",
    "matching_net": "matching networks",
    "meta_curvature": "Meta-Curvature",
    "meta_lstm": "Meta-LSTM",
    "meta_sgd": "Meta-SGD",
    "protonet": "ProtoNet",
    "reptile": "Reptile",
}
"""Names of the algorithms in tasks/reports/published.csv."""

CELL_KEYS = {
    "batch_norm",
    "data_digest",
    "dataset",
    "device",
    "ensemble",
    "gpu",
    "iterations",
    "label_sd",
    "meta_batch",
    "model",
    "peak_memory_bytes",
    "processes",
    "processor",
    "protocol",
    "queries",
    "seconds",
    "steps",
    "train_shots",
    "train_ways",
}
"""Keys that a cell.json must have."""

Cell = tuple[dict[str, Any], pd.DataFrame]
"""The content of cell.json and of episodes.csv."""


def build_table(cells: Path) -> pd.DataFrame:
    """Build the table, one row per cell, by setting and accuracy.

    Args:
        cells: Folder of the cells.

    Returns:
        The accuracy with its interval, the paired difference to MAML, the published result, and how
        each algorithm was trained and tested.

    Raises:
        StageError: There are no cells, or they are inconsistent.
    """
    results = read_cells(cells)
    published_results = pd.read_csv(published.TABLE, dtype=str, keep_default_na=False)
    rows = []
    for (method, setting), (facts, episodes) in results.items():
        scores = episodes[facts["batch_norm"]].to_numpy()
        accuracy, ci95 = mean_ci95(scores, share=True)
        baseline = results.get((BASELINE, setting)) if method != BASELINE else None
        difference, difference_ci95 = (np.nan, np.nan)
        if baseline is not None:
            difference, difference_ci95 = _compare(method, setting, facts, scores, baseline)
        row = {
            "setting": setting,
            "method": method,
            "accuracy": accuracy,
            "ci95": ci95,
            "inductive": float(episodes["inductive"].mean()),
            "to_maml": difference,
            "to_maml_ci95": difference_ci95,
            "test_episodes": len(scores),
            "network": facts["model"]["name"],
            "filters": facts["model"].get("filters"),
        }
        row |= _find_published(published_results, facts)
        rows.append(
            row
            | {key: facts[key] for key in sorted(CELL_KEYS - {"data_digest", "dataset", "model"})}
        )
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(sorted(set(table["setting"]), key=_parse_setting))}
    return table.sort_values(
        ["setting", "accuracy"],
        key=lambda column: column.map(order) if column.name == "setting" else -column,
        ignore_index=True,
    )


def read_cells(cells: Path) -> dict[tuple[str, str], Cell]:
    """Read the cells by algorithm and setting.

    Raises:
        StageError: There are none, or a cell lacks a key.
    """
    results = {}
    for path in sorted(cells.glob("*/cell.json")):
        facts = read_json(path)
        if missing := CELL_KEYS - facts.keys():
            raise StageError(
                f"{path} has no {', '.join(sorted(missing))}; it was written by a different "
                "version of the code: run make benchmark"
            )
        episodes = pd.read_csv(path.parent / "episodes.csv")
        results[facts["method"], facts["setting"]] = facts, episodes
    if not results:
        raise StageError(f"there are no cells in {cells}: run make benchmark")
    return results


def _compare(
    method: str, setting: str, facts: dict[str, Any], scores: np.ndarray, baseline: Cell
) -> tuple[float, float]:
    """Return the paired difference to the baseline and its half-width."""
    baseline_facts, baseline_episodes = baseline
    if baseline_facts["data_digest"] != facts["data_digest"]:
        raise StageError(
            f"{method} and {BASELINE} were tested on different {setting} episodes: run make "
            "benchmark"
        )
    if len(scores) != len(baseline_episodes):
        raise StageError(
            f"{method} and {BASELINE} have {len(scores)} and {len(baseline_episodes)} {setting} "
            "episodes: run make benchmark"
        )
    return mean_ci95(scores - baseline_episodes[baseline_facts["batch_norm"]].to_numpy())


def _find_published(table: pd.DataFrame, facts: dict[str, Any]) -> dict[str, str]:
    """Return the published result of a cell, its note, and how its protocol differs."""
    ways, shots = _parse_setting(facts["setting"])
    wanted = {
        "dataset": "omniglot",
        "network": facts["model"]["name"],
        "method": PUBLISHED_NAMES.get(facts["method"], ""),
        "ways": str(ways),
        "shots": str(shots),
    }
    same = table[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    if same.empty:
        keys = ("published", "published_ci95", "published_note", "published_differs")
        return dict.fromkeys(keys, "")
    protocol = {
        "split": str(facts["dataset"].get("split", "")),
        "rotations": published.describe_rotations(facts["dataset"]),
        "queries": str(facts["queries"]),
        "batch_norm": facts["batch_norm"],
    }
    first = same.iloc[0]
    return {
        "published": first["accuracy"],
        "published_ci95": first["ci95"],
        "published_note": first["note"],
        "published_differs": published.describe_differences(first.to_dict(), protocol),
    }


def _parse_setting(setting: str) -> tuple[int, int]:
    """Return ways and shots of a setting such as `5w1s`."""
    ways, shots = setting[:-1].split("w")
    return int(ways), int(shots)


# --- Markdown ----------------------------------------------------------------------------------

HEAD = (
    "method",
    "accuracy",
    "inductive",
    "vs MAML",
    "label permutation",
    "training",
    "memory",
    "published",
    "note",
)
EXPLANATION = (
    "Each algorithm was trained once, from one seed: intervals are only over test episodes. "
    "`vs MAML` is the paired difference in percentage points. `label permutation` is the standard "
    "deviation, in percentage points, of the accuracy of 50 episodes over five permutations of "
    "their labels. Algorithms with an inner loop take at least 3 steps at test time, even if "
    "trained with one. conv4 uses stride 2 and averages over positions, where most publications "
    "pool. Publications on metric-based algorithms, closed-form heads and pre-trained classifiers "
    "use running averages in batch norm."
)


def render_markdown(table: pd.DataFrame, notes: dict[str, str]) -> str:
    """Render the table, one section per setting.

    Args:
        table: The table.
        notes: Notes by algorithm, such as reasons for a difference from the published result.
    """
    sections = []
    for setting, rows in table.groupby("setting", sort=False):
        lines = [
            f"**Omniglot, {setting}**\n",
            f"{_describe_setting(rows)}\n",
            f"| {' | '.join(HEAD)} |",
            "|---" * len(HEAD) + "|",
            *(f"| {' | '.join(_render_row(row, notes))} |" for row in rows.to_dict("records")),
        ]
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _render_row(row: dict[Any, Any], notes: dict[str, str]) -> list[str]:
    difference, published_result = "", ""
    if not np.isnan(row["to_maml"]):
        difference = f"{100 * row['to_maml']:+.1f} ± {100 * row['to_maml_ci95']:.1f}"
    if row["published"]:
        published_result = f"{row['published']} %"
        if row["published_ci95"]:
            published_result += f" ± {row['published_ci95']}"
    remarks = [_describe_training(row), _describe_published(row), notes.get(row["method"], "")]
    return [
        f"`{row['method']}`",
        wording.format_estimate("accuracy", row["accuracy"], row["ci95"]),
        wording.format_percent(row["inductive"]),
        difference.replace("-", "−"),
        f"{100 * row['label_sd']:.2f}",
        f"{row['iterations']:,} x {row['meta_batch']} tasks, {row['seconds'] / 60:.1f} min",
        f"{row['peak_memory_bytes'] / 1e9:.1f} GB",
        published_result,
        "; ".join(filter(None, remarks)),
    ]


def _describe_setting(rows: pd.DataFrame) -> str:
    """Describe what the cells of a setting share, and explain the columns."""
    ways, shots = _parse_setting(rows["setting"].iloc[0])
    queries = wording.format_count(int(rows["queries"].iloc[0]), "query", "queries")
    episodes = wording.format_count(int(rows["test_episodes"].iloc[0]), "test episode")
    modes = sorted(set(rows["batch_norm"]))
    machines = sorted(set(rows["gpu"].fillna(rows["processor"])))
    processes = [str(number) for number in sorted(set(rows["processes"].astype(int)))]
    task = f"{ways}-way {shots}-shot, {queries} per class, {rows['protocol'].iloc[0]}."
    interval = f"All algorithms use the same {episodes}; ± is the 95 % interval over them."
    mode = (
        "Each algorithm uses the batch-norm mode that it was trained in: "
        f"{wording.join_words(modes)}."
    )
    if modes == ["transductive"]:
        mode = (
            "Transductive batch norm, in training and at test time: it uses the statistics of the "
            "query set, as in MAML's code. `inductive` is the same model with the "
            "statistics of the support set."
        )
    machine = (
        f"Trained on {wording.join_words(machines)} with {wording.join_words(processes)} processes."
    )
    return " ".join([task, interval, mode, EXPLANATION, machine])


def _describe_training(row: dict[Any, Any]) -> str:
    """Describe how the training or the test of a cell differs from that of MAML."""
    ways, shots = _parse_setting(row["setting"])
    remarks = []
    if (row["train_ways"], row["train_shots"]) != (ways, shots):
        remarks.append(f"trained {row['train_ways']}-way {row['train_shots']}-shot")
    if row["network"] == "conv4" and row["filters"] != 64:
        remarks.append(f"{row['filters']:.0f} filters")
    if row["steps"]:
        remarks.append(wording.format_count(row["steps"], "step"))
    if row["ensemble"] > 1:
        remarks.append(f"ensemble of {row['ensemble']} checkpoints")
    return ", ".join(remarks)


def _describe_published(row: dict[Any, Any]) -> str:
    remarks = ", ".join(filter(None, [row["published_note"], row["published_differs"]]))
    return f"published: {remarks}" if remarks else ""


def list_missing(table: pd.DataFrame, methods: Path) -> str:
    """List the cells that have a recipe but no result in a sentence; '' for none.

    Args:
        table: The table.
        methods: Folder of the recipes, SETTING/METHOD.yaml.
    """
    known = set(zip(table["setting"], table["method"], strict=True))
    recipes = sorted((path.parent.name, path.stem) for path in methods.glob("*/*.yaml"))
    missing = [
        f"`{method}` {setting}" for setting, method in recipes if (setting, method) not in known
    ]
    return f"Not computed yet: {wording.join_words(missing)}.\n" if missing else ""


# --- chart -------------------------------------------------------------------------------------


def draw_chart(table: pd.DataFrame) -> str:
    """Draw the accuracy with its interval and the published results as an SVG."""
    import altair as alt

    values = table.assign(
        low=table["accuracy"] - table["ci95"],
        high=(table["accuracy"] + table["ci95"]).clip(upper=1.0),
        printed=pd.to_numeric(table["published"].replace("", np.nan)) / 100,
    )
    panels = []
    for setting, rows in values.groupby("setting", sort=False):
        low = max(0.0, float(np.nanmin(rows[["low", "printed"]].to_numpy())) - 0.01)
        form = ".1%" if low > 0.9 else ".0%"
        x: dict[str, Any] = {
            "scale": alt.Scale(domain=[low, 1.0], nice=False, zero=False),
            "axis": alt.Axis(format=form, title="accuracy", tickCount=5, grid=True),
        }
        y_axis = alt.Axis(
            title=None,
            labelFontSize=12,
            labelColor=charts.css_variable("text"),
            labelLimit=240,
            minExtent=150,
        )
        base = alt.Chart(rows).encode(
            y=alt.Y("method:N", sort=rows["method"].tolist(), axis=y_axis)
        )
        interval = base.mark_rule(
            strokeWidth=5, opacity=0.45, strokeCap="round", color=charts.css_variable("model")
        )
        dot = base.mark_point(filled=True, size=90, color=charts.css_variable("model"), opacity=1)
        diamond = base.transform_filter("isValid(datum.printed)").mark_point(
            shape="diamond", size=90, color=charts.css_variable("published")
        )
        layers = [
            interval.encode(x=alt.X("low:Q", **x), x2="high:Q"),
            diamond.encode(x=alt.X("printed:Q", **x)),
            dot.encode(x=alt.X("accuracy:Q", **x)),
        ]
        title = alt.TitleParams(
            f"{setting}: this benchmark (dot, 95 % interval) and published (diamond)",
            anchor="start",
            fontSize=13,
            dy=-6,
        )
        panels.append(alt.layer(*layers).properties(title=title, width=560, height=24 * len(rows)))
    spec = alt.vconcat(*panels).to_dict()
    spec.pop("config", None)
    return charts.render_svg(spec)


def write(cells: Path, notes_yaml: Path, methods: Path, out: Path) -> None:
    """Write the results.

    Args:
        cells: Folder of the cells.
        notes_yaml: Notes by algorithm.
        methods: Folder of the recipes.
        out: Folder to write.

    Raises:
        StageError: The cells are inconsistent, or a note has no algorithm with a cell or recipe.
    """
    table = build_table(cells)
    notes = read_yaml(notes_yaml) or {}
    known = set(table["method"]) | {path.stem for path in methods.glob("*/*.yaml")}
    if unknown := sorted(set(notes) - known):
        raise StageError(
            f"{notes_yaml} has a note on {', '.join(unknown)}, which is not an algorithm of the "
            "table"
        )
    sections = [render_markdown(table, notes), list_missing(table, methods)]
    with atomic_folder(out) as draft:
        table.to_csv(draft / "results.csv", index=False)
        write_text(draft / "results.md", "\n".join(filter(None, sections)))
        write_text(draft / "results.svg", draw_chart(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    helps = {
        "cells": "folder of cells: METHOD-SETTING/cell.json and METHOD-SETTING/episodes.csv",
        "notes": "YAML file with notes by algorithm",
        "methods": "folder of the recipes: SETTING/METHOD.yaml",
        "out": "folder to write",
    }
    for name, text in helps.items():
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=text)
    args = parser.parse_args()
    stage.run(lambda: write(args.cells, args.notes, args.methods, args.out))


if __name__ == "__main__":
    main()
