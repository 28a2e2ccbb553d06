"""Build the tables of the method benchmark from its cells.

Writes results.csv, results.md, and for each dataset DATASET.svg (accuracies) and
DATASET-training.svg (accuracy on validation tasks during training).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.methods.cell import parse_setting
from episodic.core.statistics import mean_ci95
from tasks.params import read_yaml
from tasks.reports.kit import charts, published, wording
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, read_json, write_text
from tasks.runtime.stage import StageError

BASELINE = "maml"
"""The algorithm that all others are compared with."""

DATASETS = {"omniglot": "Omniglot", "cifar_fs": "CIFAR-FS", "fc100": "FC100"}
"""Names of the datasets in the table."""

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
    "ridge": "R2-D2",
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

CURVE = ["iteration", "accuracy"]
"""Columns of the accuracy during training."""


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
            "downsample": facts["model"].get("downsample"),
        }
        row |= _find_published(published_results, facts)
        rows.append(
            row
            | {key: facts[key] for key in sorted(CELL_KEYS - {"data_digest", "dataset", "model"})}
        )
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(sorted(set(table["setting"]), key=_order_setting))}
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
    """Return the published result of a cell, its note, and how its protocol differs.

    The result of another network is shown only if there is none of the same, and noted.
    """
    dataset, ways, shots = parse_setting(facts["setting"])
    wanted = {
        "dataset": dataset,
        "method": PUBLISHED_NAMES.get(facts["method"], ""),
        "ways": str(ways),
        "shots": str(shots),
    }
    network = facts["model"]["name"]
    found = table[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    same = found.iloc[np.argsort(found["network"] != network, kind="stable")]
    if same.empty:
        keys = ("published", "published_ci95", "published_note", "published_differs")
        return dict.fromkeys(keys, "")
    protocol = {
        "split": str(facts["dataset"].get("split", facts["protocol"])),
        "queries": str(facts["queries"]),
        "batch_norm": facts["batch_norm"],
    }
    if "rotations" in facts["dataset"]:
        protocol["rotations"] = published.describe_rotations(facts["dataset"])
    first = same.iloc[0]
    differences = [published.describe_differences(first.to_dict(), protocol)]
    if first["network"] != network:
        differences.insert(0, f"network {first['network']} (here {network})")
    return {
        "published": first["accuracy"],
        "published_ci95": first["ci95"],
        "published_note": first["note"],
        "published_differs": "; ".join(filter(None, differences)),
    }


def _order_setting(setting: str) -> tuple[int, int, int]:
    """Return a key that sorts settings by dataset, ways and shots."""
    dataset, ways, shots = parse_setting(setting)
    return list(DATASETS).index(dataset), ways, shots


def _name_setting(setting: str) -> str:
    """Return a heading, such as `CIFAR-FS, 5-way 1-shot`."""
    dataset, ways, shots = parse_setting(setting)
    return f"{DATASETS[dataset]}, {ways}-way {shots}-shot"


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
    "trained with one. Publications on metric-based algorithms, closed-form heads and pre-trained "
    "classifiers use running averages in batch norm."
)


def render_markdown(table: pd.DataFrame, notes: dict[str, dict[str, str]]) -> str:
    """Render the table, one section per setting.

    Args:
        table: The table.
        notes: Notes by setting and algorithm, such as reasons for a difference from the published
            result.
    """
    sections = []
    for setting, rows in table.groupby("setting", sort=False):
        lines = [
            f"**{_name_setting(str(setting))}**\n",
            f"{_describe_setting(rows)}\n",
            f"| {' | '.join(HEAD)} |",
            "|---" * len(HEAD) + "|",
            *(
                f"| {' | '.join(_render_row(row, notes.get(str(setting), {})))} |"
                for row in rows.to_dict("records")
            ),
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
    _, ways, shots = parse_setting(rows["setting"].iloc[0])
    queries = wording.format_count(int(rows["queries"].iloc[0]), "query", "queries")
    episodes = wording.format_count(int(rows["test_episodes"].iloc[0]), "test episode")
    modes = sorted(set(rows["batch_norm"]))
    machines = sorted(set(rows["gpu"].fillna(rows["processor"])))
    processes = [
        wording.format_count(number, "process", "processes")
        for number in sorted(set(rows["processes"].astype(int)))
    ]
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
    machine = f"Trained on {wording.join_words(machines)} with {wording.join_words(processes)}."
    network = "conv4 uses stride 2 and averages over positions, where most publications pool."
    if set(rows["downsample"]) != {"stride"}:
        network = ""
    return " ".join(filter(None, [task, interval, mode, EXPLANATION, network, machine]))


def _describe_training(row: dict[Any, Any]) -> str:
    """Describe how the training or the test of a cell differs from that of MAML."""
    _, ways, shots = parse_setting(row["setting"])
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


# --- charts ------------------------------------------------------------------------------------


def draw_accuracies(table: pd.DataFrame) -> str:
    """Draw the accuracies with their intervals and the published results as an SVG."""
    import altair as alt

    values = table.assign(
        low=table["accuracy"] - table["ci95"],
        high=(table["accuracy"] + table["ci95"]).clip(upper=1.0),
        printed=pd.to_numeric(table["published"].replace("", np.nan)) / 100,
    )
    panels = []
    for setting, rows in values.groupby("setting", sort=False):
        low = max(0.0, float(np.nanmin(rows[["low", "printed"]].to_numpy())) - 0.01)
        high = min(1.0, float(np.nanmax(rows[["high", "printed"]].to_numpy())) + 0.01)
        form = ".1%" if low > 0.9 else ".0%"
        x: dict[str, Any] = {
            "scale": alt.Scale(domain=[low, high], nice=False, zero=False),
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
        title = _title(f"{_name_setting(str(setting))}: here (dot, 95 %) and published (diamond)")
        panels.append(alt.layer(*layers).properties(title=title, width=560, height=24 * len(rows)))
    return _render(alt.vconcat(*panels))


def draw_training(cells: Path, table: pd.DataFrame) -> str:
    """Draw the accuracy on validation tasks during training as an SVG, one panel per algorithm.

    Args:
        cells: Folder of the cells.
        table: The rows of the table for one dataset.
    """
    import altair as alt

    points = pd.concat([_read_curve(cells, row) for row in table.to_dict("records")])
    names = list(dict.fromkeys(points["setting"]))
    colours = [charts.css_variable(name) for name in ("model", "baseline", "early")]
    axis = alt.Axis(format=".0%", title=None, tickCount=4, grid=True)
    chart = (
        alt.Chart(points)
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("minutes:Q", axis=alt.Axis(title="minutes of training", tickCount=5)),
            y=alt.Y("accuracy:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=alt.Color(
                "setting:N",
                title=None,
                scale=alt.Scale(domain=names, range=colours[: len(names)]),
                legend=alt.Legend(orient="top") if len(names) > 1 else None,
            ),
            facet=alt.Facet(
                "method:N",
                columns=3,
                title=None,
                header=alt.Header(labelColor=charts.css_variable("text"), labelFontSize=12),
            ),
        )
        .properties(width=160, height=110)
    )
    return _render(chart)


def _read_curve(cells: Path, row: dict[Any, Any]) -> pd.DataFrame:
    """Return the accuracy on validation tasks of a cell by minutes of training."""
    curve = pd.read_csv(_curve_file(cells, row))[CURVE]
    minutes = curve["iteration"] / row["iterations"] * row["seconds"] / 60
    _, ways, shots = parse_setting(row["setting"])
    return curve.assign(minutes=minutes, method=row["method"], setting=f"{ways}-way {shots}-shot")


def _curve_file(cells: Path, row: dict[Any, Any]) -> Path:
    return cells / f"{row['method']}-{row['setting']}" / "validation.csv"


def _title(text: str) -> Any:
    import altair as alt

    return alt.TitleParams(text, anchor="start", fontSize=13, dy=-6)


def _render(chart: Any) -> str:
    spec = chart.to_dict()
    spec.pop("config", None)
    return charts.render_svg(spec)


def write(cells: Path, notes_yaml: Path, methods: Path, out: Path) -> None:
    """Write the results.

    Args:
        cells: Folder of the cells.
        notes_yaml: Notes by setting and algorithm.
        methods: Folder of the recipes.
        out: Folder to write.

    Raises:
        StageError: The cells are inconsistent, or a note has no recipe.
    """
    table = build_table(cells)
    notes = read_yaml(notes_yaml) or {}
    noted = [(setting, method) for setting, entries in notes.items() for method in entries]
    for setting, method in noted:
        if not (methods / setting / f"{method}.yaml").is_file():
            raise StageError(
                f"{notes_yaml} has a note on {method} {setting}, which has no recipe in {methods}"
            )
    sections = [render_markdown(table, notes), list_missing(table, methods)]
    dataset = table["setting"].map(lambda setting: parse_setting(setting)[0])
    with atomic_folder(out) as draft:
        table.to_csv(draft / "results.csv", index=False)
        write_text(draft / "results.md", "\n".join(filter(None, sections)))
        for name, rows in table.groupby(dataset, sort=False):
            write_text(draft / f"{name}.svg", draw_accuracies(rows))
            recorded = [_curve_file(cells, row).is_file() for row in rows.to_dict("records")]
            if any(recorded):
                write_text(draft / f"{name}-training.svg", draw_training(cells, rows[recorded]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    helps = {
        "cells": "folder of cells: METHOD-SETTING with cell.json, episodes.csv and validation.csv",
        "notes": "YAML file with notes by setting and algorithm",
        "methods": "folder of the recipes: SETTING/METHOD.yaml",
        "out": "folder to write",
    }
    for name, text in helps.items():
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=text)
    args = parser.parse_args()
    stage.run(lambda: write(args.cells, args.notes, args.methods, args.out))


if __name__ == "__main__":
    main()
