"""The papers' table from its cells (benchmarks/methods/cell.py): results.csv, results.md and results.svg."""

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
PUBLISHED = {
    "anil": "ANIL",
    "boil": "BOIL",
    "finetune": "fine-tuning",
    "fomaml": "first-order MAML",
    "imaml": "iMAML (GD)",
    "maml": "MAML",
    "maml_plus_plus": "MAML++",
    "matching_net": "matching networks",
    "meta_lstm": "Meta-LSTM",
    "meta_sgd": "Meta-SGD",
    "protonet": "ProtoNet",
    "reptile": "Reptile",
}
"""What tasks/reports/published.csv calls a method."""

KEYS = {
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
"""What a cell must say of itself."""


def rows(cells: Path) -> pd.DataFrame:
    """One row a cell: accuracy with its interval, the paired difference to MAML on the same episodes, what it took, what was published."""
    found = {}
    for path in sorted(cells.glob("*/cell.json")):
        facts = read_json(path)
        if absent := KEYS - facts.keys():
            raise StageError(
                f"{path} was made by other code (it lacks {', '.join(sorted(absent))}): run make table"
            )
        found[facts["method"], facts["setting"]] = facts, pd.read_csv(path.parent / "episodes.csv")
    if not found:
        raise StageError(f"there are no cells in {cells}: run make table")
    table = pd.read_csv(published.TABLE, dtype=str, keep_default_na=False)
    result = []
    for (method, setting), (facts, episodes) in found.items():
        score = episodes[facts["batch_norm"]].to_numpy()
        row = dict(zip(("accuracy", "ci95"), mean_ci95(score), strict=True))
        row["inductive"], _ = mean_ci95(episodes["inductive"].to_numpy())
        row |= dict.fromkeys(("to_maml", "to_maml_ci95"), np.nan)
        if (BASELINE, setting) in found and method != BASELINE:
            other, theirs = found[BASELINE, setting]
            if other["data_digest"] != facts["data_digest"]:
                raise StageError(
                    f"{method} and {BASELINE} were tested on different {setting} episodes: run make table"
                )
            if len(score) != len(theirs):
                raise StageError(
                    f"{method} and {BASELINE} have {len(score)} and {len(theirs)} {setting} episodes: run make table"
                )
            row["to_maml"], row["to_maml_ci95"] = mean_ci95(
                score - theirs[other["batch_norm"]].to_numpy()
            )
        row |= {
            "test_episodes": len(score),
            "network": facts["model"]["name"],
            "filters": facts["model"].get("filters"),
        }
        took = {key: facts[key] for key in sorted(KEYS - {"data_digest", "dataset", "model"})}
        result.append({"setting": setting, "method": method} | row | _printed(table, facts) | took)
    made = pd.DataFrame(result)
    order = {name: i for i, name in enumerate(sorted(set(made["setting"]), key=_size))}
    return made.sort_values(
        ["setting", "accuracy"],
        key=lambda c: c.map(order) if c.name == "setting" else -c,
        ignore_index=True,
    )


def _printed(table: pd.DataFrame, facts: dict[str, Any]) -> dict[str, str]:
    """The published figure of a cell's method and setting, what its source says of it, and in what its protocol is another."""
    ways, shots = facts["setting"][:-1].split("w")
    wanted = {
        "dataset": "omniglot",
        "network": facts["model"]["name"],
        "method": PUBLISHED.get(facts["method"], ""),
        "ways": ways,
        "shots": shots,
    }
    same = table[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    if same.empty:
        return dict.fromkeys(
            ("published", "published_ci95", "published_note", "published_differs"), ""
        )
    mine = {
        "split": str(facts["dataset"].get("split", "")),
        "rotations": published.turned(facts["dataset"]),
        "queries": str(facts["queries"]),
        "batch_norm": facts["batch_norm"],
    }
    first = same.iloc[0]
    return {
        "published": first["accuracy"],
        "published_ci95": first["ci95"],
        "published_note": first["note"],
        "published_differs": published.differs(first.to_dict(), mine),
    }


def _size(setting: str) -> tuple[int, int]:
    ways, shots = setting[:-1].split("w")
    return int(ways), int(shots)


def markdown(table: pd.DataFrame, notes: dict[str, str]) -> str:
    """The table for README, a part a setting; notes: what is to be said of a method, as why it falls short of its publication."""
    parts = []
    for setting, part in table.groupby("setting", sort=False):
        head = [
            "method",
            "accuracy",
            "inductive",
            "to MAML, same episodes",
            "numbering",
            "training",
            "memory",
            "published",
            "note",
        ]
        lines = [
            f"**Omniglot, {setting}**\n",
            _legend(part) + "\n",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
        ]
        for row in part.to_dict("records"):
            cells = [
                f"`{row['method']}`",
                wording.figure("accuracy", row["accuracy"], row["ci95"]),
                wording.percent(row["inductive"]),
                ""
                if np.isnan(row["to_maml"])
                else f"{100 * row['to_maml']:+.1f} ± {100 * row['to_maml_ci95']:.1f}".replace(
                    "-", "−"
                ),
                f"{100 * row['label_sd']:.2f}",
                f"{row['iterations']:,} x {row['meta_batch']} tasks, {row['seconds'] / 60:.1f} min",
                f"{row['peak_memory_bytes'] / 1e9:.1f} GB",
                (f"{row['published']} %" if row["published"] else "")
                + (f" ± {row['published_ci95']}" if row["published_ci95"] else ""),
                "; ".join(filter(None, [_own(row), _theirs(row), notes.get(row["method"], "")])),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _legend(part: pd.DataFrame) -> str:
    """What the cells of a setting have in common, and what the columns mean."""
    ways, shots = _size(part["setting"].iloc[0])
    modes, machines = (
        sorted(set(part["batch_norm"])),
        sorted(set(part["gpu"].fillna(part["processor"]))),
    )
    processes = sorted(set(part["processes"].astype(int)))
    mode = (
        "Transductive, in training and at test: query images are normalised by each other's batch statistics, as in MAML's code; "
        "`inductive` is the same model, normalised by the support set alone."
        if modes == ["transductive"]
        else f"Batch norm is {wording.joined(modes)}, as each cell was trained."
    )
    shape = f"{ways}-way {shots}-shot, {wording.count(int(part['queries'].iloc[0]), 'query', 'queries')} a class"
    episodes = wording.count(int(part["test_episodes"].iloc[0]), "test episode")
    trained = f"{wording.joined(machines)}, {wording.joined([str(p) for p in processes])} processes"
    columns = (
        "One training a cell, from one seed: intervals are over test episodes alone. `to MAML`: paired difference in points. `numbering`: "
        "points by which the accuracy of 50 episodes spreads over five renumberings of their classes (standard deviation). Methods with an "
        "inner loop take at least 3 steps at test, also where they were trained with one. conv4 has stride 2 and reads the mean over "
        "positions; most publications pool, and those of metric methods, closed-form heads and pre-trained classifiers take running "
        "averages in batch norm."
    )
    trained = f"Trained on {wording.joined(machines)}, {wording.joined([str(p) for p in processes])} processes."
    return f"{shape}, {part['protocol'].iloc[0]}; the same {episodes} for all, ± the 95 % interval over them. {mode} {columns} {trained}"


def _own(row: dict[Any, Any]) -> str:
    """In what a cell's training differs from MAML's, or its test."""
    ways, shots = _size(row["setting"])
    said = []
    if (row["train_ways"], row["train_shots"]) != (ways, shots):
        said.append(f"trained {row['train_ways']}-way {row['train_shots']}-shot")
    if row["network"] == "conv4" and row["filters"] != 64:
        said.append(f"{row['filters']:.0f} filters")
    if row["steps"]:
        said.append(wording.count(row["steps"], "step"))
    if row["ensemble"] > 1:
        said.append(f"{row['ensemble']} checkpoints answer together")
    return ", ".join(said)


def _theirs(row: dict[Any, Any]) -> str:
    said = ", ".join(filter(None, [row["published_note"], row["published_differs"]]))
    return f"published: {said}" if said else ""


def picture(table: pd.DataFrame) -> str:
    """Accuracy with its interval, a panel a setting, the published figure beside it."""
    import altair as alt

    drawn = table.assign(
        low=table["accuracy"] - table["ci95"],
        high=(table["accuracy"] + table["ci95"]).clip(upper=1.0),
        printed=pd.to_numeric(table["published"].replace("", np.nan)) / 100,
    )
    panels = []
    for setting, part in drawn.groupby("setting", sort=False):
        low = max(0.0, float(np.nanmin(part[["low", "printed"]].to_numpy())) - 0.01)
        scale = alt.Scale(domain=[low, 1.0], nice=False, zero=False)
        x: dict[str, Any] = {
            "scale": scale,
            "axis": alt.Axis(
                format=".1%" if low > 0.9 else ".0%", title="accuracy", tickCount=5, grid=True
            ),
        }
        y_axis = alt.Axis(
            title=None,
            labelFontSize=12,
            labelColor=charts.var("ink"),
            labelLimit=240,
            minExtent=150,
        )
        base = alt.Chart(part).encode(
            y=alt.Y("method:N", sort=part["method"].tolist(), axis=y_axis)
        )
        interval = base.mark_rule(
            strokeWidth=5, opacity=0.45, strokeCap="round", color=charts.var("model")
        )
        ours = base.mark_point(filled=True, size=90, color=charts.var("model"), opacity=1)
        theirs = base.transform_filter("isValid(datum.printed)").mark_point(
            shape="diamond", size=90, color=charts.var("published")
        )
        layers = [
            interval.encode(x=alt.X("low:Q", **x), x2="high:Q"),
            theirs.encode(x=alt.X("printed:Q", **x)),
            ours.encode(x=alt.X("accuracy:Q", **x)),
        ]
        title = alt.TitleParams(
            f"{setting}: ours (dot, 95 % interval) and published (diamond)",
            anchor="start",
            fontSize=13,
            dy=-6,
        )
        panels.append(alt.layer(*layers).properties(title=title, width=560, height=24 * len(part)))
    spec = alt.vconcat(*panels).to_dict()
    spec.pop("config", None)
    return charts.svg(spec)


def absent(table: pd.DataFrame, methods: Path) -> str:
    """Which cells are not there yet of those that have a recipe, METHODS/SETTING/METHOD.yaml ('' for none)."""
    there = set(zip(table["setting"], table["method"], strict=True))
    wanted = sorted((path.parent.name, path.stem) for path in methods.glob("*/*.yaml"))
    lacking = [
        f"`{method}` {setting}" for setting, method in wanted if (setting, method) not in there
    ]
    return f"Not made yet: {wording.joined(lacking)}.\n" if lacking else ""


def write(cells: Path, notes_yaml: Path, methods: Path, out: Path) -> None:
    table = rows(cells)
    notes = read_yaml(notes_yaml) or {}
    if unknown := sorted(
        set(notes) - set(table["method"]) - {path.stem for path in methods.glob("*/*.yaml")}
    ):
        raise StageError(
            f"{notes_yaml} has a note on {', '.join(unknown)}, which is no method of the table"
        )
    with atomic_folder(out) as draft:
        table.to_csv(draft / "results.csv", index=False)
        write_text(
            draft / "results.md",
            "\n".join(filter(None, [markdown(table, notes), absent(table, methods)])),
        )
        write_text(draft / "results.svg", picture(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cells",
        type=Path,
        required=True,
        help="folder of cells: METHOD-SETTING/cell.json, METHOD-SETTING/episodes.csv",
    )
    parser.add_argument("--notes", type=Path, required=True, help="file of notes, one a method")
    parser.add_argument(
        "--methods",
        type=Path,
        required=True,
        help="folder of the cells' recipes: SETTING/METHOD.yaml",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    stage.run(lambda: write(args.cells, args.notes, args.methods, args.out))


if __name__ == "__main__":
    main()
