"""The papers' table, made again: every method on the same episodes, at a budget that is stated.

    make table                                            all of it, cell by cell; what is done stays done (table/dvc.yaml)
    python -m tasks.table raw                             the data set
    python -m tasks.table data SETTING                    the episodes of a setting, as `5w1s`
    python -m tasks.table cell METHOD SETTING             one cell: train, evaluate, keep the accuracy of each episode
    python -m tasks.table write                           results.csv, results.md and results.svg from the cells there are

A cell's parameters are the defaults, then table/base.yaml, table/settings/SETTING.yaml, table/methods/METHOD.yaml and, where there is one,
table/methods/METHOD-SETTING.yaml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from episodic.statistics import mean_ci95
from tasks import preset, stage
from tasks.files import ROOT, folder_beside, read_json, write_json, write_text
from tasks.params import read_yaml
from tasks.reporting import words
from tasks.stage import StageError

FOLDER = ROOT / "table"
BASELINE = "maml"
PUBLISHED = {
    "anil": "ANIL", "boil": "BOIL", "finetune": "fine-tuning", "fomaml": "first-order MAML", "imaml": "iMAML (GD)", "maml": "MAML",
    "maml_plus_plus": "MAML++", "matching_net": "matching networks", "meta_lstm": "Meta-LSTM", "meta_sgd": "Meta-SGD",
    "protonet": "ProtoNet", "reptile": "Reptile",
}  # fmt: skip
"""What tasks/published.csv calls a method."""


def parameters(setting: str | None = None, method: str | None = None) -> dict[str, Any]:
    """The whole of params.yaml for the data set, for the episodes of a setting, or for a cell."""
    files = [FOLDER / "base.yaml"]
    if setting is not None:
        files.append(FOLDER / "settings" / f"{setting}.yaml")
    if method is not None:
        files.append(FOLDER / "methods" / f"{method}.yaml")
    for file in files:
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
            raise StageError(f"there is no {file.relative_to(ROOT)}: must be one of {known}")
    own = FOLDER / "methods" / f"{method}-{setting}.yaml"
    files += [own] if own.is_file() else []
    wanted = preset.defaults()
    for file in files:
        preset.merge(wanted, read_yaml(file))
    if method is not None:
        wanted["algorithm"]["name"] = method
    return wanted


def raw(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
        write_json(Path(folder) / "params.yaml", parameters())  # JSON is YAML
        _stage("download", params=Path(folder) / "params.yaml", out=out)


def data(setting: str, downloaded: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
        write_json(Path(folder) / "params.yaml", parameters(setting))
        _stage("episodes", params=Path(folder) / "params.yaml", raw=downloaded, out=out)


def cell(method: str, setting: str, prepared: Path, out: Path) -> None:
    """Writes `episodes.csv` (accuracy of each test episode, in both modes) and `cell.json` (what it took)."""
    wanted = parameters(setting, method)
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        folder = Path(name)
        write_json(folder / "params.yaml", wanted)
        shared = {"params": folder / "params.yaml", "data": prepared, "model": folder / "model"}
        _stage("train", **shared, history=folder / "history", run_json=folder / "run.json")
        _stage("evaluate", **shared, scores=folder / "scores", metrics=folder / "metrics.json")
        facts, metrics = read_json(folder / "run.json"), read_json(folder / "metrics.json")
        scores = pd.read_parquet(folder / "scores" / "episodes.parquet")
    mode, steps = wanted["train"]["batch_norm"], metrics["steps"]
    table = scores[scores["step"] == steps].pivot(index="episode", columns="mode", values="accuracy").reset_index()
    with folder_beside(out) as draft:
        table.to_csv(draft / "episodes.csv", index=False)
        write_json(
            draft / "cell.json",
            {
                "method": method, "setting": setting, "batch_norm": mode, "steps": steps, "iterations": wanted["train"]["iterations"],
                "meta_batch": wanted["train"]["meta_batch"], "label_sd": metrics["labels"]["accuracy_sd"],
                **{key: facts[key] for key in ("seconds", "peak_memory_bytes", "processes", "device", "gpu", "processor", "torch")},
            },
        )  # fmt: skip


def _stage(name: str, **paths: Path) -> None:
    options = [word for key, path in paths.items() for word in (f"--{key.replace('_', '-')}", str(path))]
    ended = subprocess.run([sys.executable, "-m", f"tasks.{name}", *options], cwd=ROOT)
    if ended.returncode:
        raise StageError(f"the stage {name} ended with exit code {ended.returncode}; what it said stands above")


def rows(cells: Path) -> pd.DataFrame:
    """One row a cell: accuracy with its interval, the paired difference to MAML on the same episodes, what it took, what was published."""
    found = {}
    for path in sorted(cells.glob("*/cell.json")):
        facts = read_json(path)
        found[facts["method"], facts["setting"]] = facts, pd.read_csv(path.parent / "episodes.csv")
    if not found:
        raise StageError(f"there are no cells in {cells}: run make table")
    published = pd.read_csv(ROOT / "tasks" / "published.csv", dtype=str, keep_default_na=False)
    result = []
    for (method, setting), (facts, episodes) in found.items():
        score = episodes[facts["batch_norm"]].to_numpy()
        row = dict(zip(("accuracy", "ci95"), mean_ci95(score), strict=True))
        row["inductive"], _ = mean_ci95(episodes["inductive"].to_numpy())
        row |= dict.fromkeys(("to_maml", "to_maml_ci95"), np.nan)
        if (BASELINE, setting) in found and method != BASELINE:
            other, theirs = found[BASELINE, setting]
            row["to_maml"], row["to_maml_ci95"] = mean_ci95(score - theirs[other["batch_norm"]].to_numpy())
        ways, shots = setting[:-1].split("w")
        same = published[
            (published["dataset"] == "omniglot") & (published["network"] == "conv4") & (published["method"] == PUBLISHED.get(method, ""))
            & (published["ways"] == ways) & (published["shots"] == shots)
        ]  # fmt: skip
        columns = {"published": "accuracy", "published_ci95": "ci95", "published_note": "note"}
        printed = {key: same[of].iloc[0] if len(same) else "" for key, of in columns.items()}
        took = {key: facts[key] for key in ("steps", "iterations", "meta_batch", "seconds", "label_sd", "peak_memory_bytes")}
        result.append({"setting": setting, "method": method} | row | printed | took)
    table = pd.DataFrame(result)
    order = {name: i for i, name in enumerate(sorted(set(table["setting"]), key=_size))}
    return table.sort_values(["setting", "accuracy"], key=lambda c: c.map(order) if c.name == "setting" else -c, ignore_index=True)


def _size(setting: str) -> tuple[int, int]:
    ways, shots = setting[:-1].split("w")
    return int(ways), int(shots)


def markdown(table: pd.DataFrame, notes: dict[str, str]) -> str:
    """The table for README, a part a setting; notes: why a method falls short of its publication."""
    parts = []
    for setting, part in table.groupby("setting", sort=False):
        head = ["method", "accuracy", "inductive", "to MAML, same episodes", "training", "memory", "published", "note"]
        lines = [f"**Omniglot, {setting}**\n", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in part.to_dict("records"):
            cells = [
                f"`{row['method']}`",
                words.figure("accuracy", row["accuracy"], row["ci95"]),
                words.percent(row["inductive"]),
                "" if np.isnan(row["to_maml"]) else f"{100 * row['to_maml']:+.1f} ± {100 * row['to_maml_ci95']:.1f}",
                f"{row['iterations']:,} x {row['meta_batch']} tasks, {row['seconds'] / 60:.1f} min",
                f"{row['peak_memory_bytes'] / 1e9:.1f} GB",
                (f"{row['published']} %" if row["published"] else "") + (f" ± {row['published_ci95']}" if row["published_ci95"] else ""),
                "; ".join(filter(None, [row["published_note"], notes.get(row["method"], "")])),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def picture(table: pd.DataFrame) -> str:
    """Accuracy with its interval, a panel a setting, the published figure beside it."""
    import altair as alt
    import vl_convert

    drawn = table.assign(
        low=table["accuracy"] - table["ci95"],
        high=(table["accuracy"] + table["ci95"]).clip(upper=1.0),
        printed=pd.to_numeric(table["published"].replace("", np.nan)) / 100,
    )
    panels = []
    for setting, part in drawn.groupby("setting", sort=False):
        low = max(0.0, min(part["low"].min(), np.nanmin(part["printed"])) - 0.02)
        scale, axis = alt.Scale(domain=[low, 1.0], nice=False, zero=False), alt.Axis(format=".0%", title="accuracy")
        base = alt.Chart(part).encode(y=alt.Y("method:N", sort=part["method"].tolist(), title=None))
        interval = base.mark_rule(strokeWidth=4, opacity=0.45, color="#0072b2")
        ours = base.mark_point(filled=True, size=80, color="#0072b2", opacity=1)
        theirs = base.transform_filter("isValid(datum.printed)").mark_point(shape="diamond", size=90, color="#1b1f24")
        layers = [
            interval.encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q"),
            ours.encode(x=alt.X("accuracy:Q", scale=scale, axis=axis)),
            theirs.encode(x=alt.X("printed:Q", scale=scale, axis=axis)),
        ]
        panels.append(alt.layer(*layers).properties(title=f"{setting}: ours (dot, 95 %) and published (diamond)", width=420))
    return vl_convert.vegalite_to_svg(alt.vconcat(*panels).to_dict(), allowed_base_urls=[]) + "\n"


def write(cells: Path, out: Path) -> None:
    table = rows(cells)
    notes = read_yaml(FOLDER / "notes.yaml") or {}
    with folder_beside(out) as draft:
        table.to_csv(draft / "results.csv", index=False)
        write_text(draft / "results.md", markdown(table, notes))
        write_text(draft / "results.svg", picture(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    part = parts.add_parser("raw", help="the data set")
    part.add_argument("--out", type=Path, required=True)
    part = parts.add_parser("data", help="the episodes of a setting")
    part.add_argument("setting")
    part.add_argument("--raw", type=Path, required=True)
    part.add_argument("--out", type=Path, required=True)
    part = parts.add_parser("cell", help="train and evaluate one method in one setting")
    part.add_argument("method")
    part.add_argument("setting")
    part.add_argument("--data", type=Path, required=True)
    part.add_argument("--out", type=Path, required=True)
    part = parts.add_parser("write", help="the table from the cells there are")
    part.add_argument("--cells", type=Path, required=True)
    part.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    works = {
        "raw": lambda: raw(args.out),
        "data": lambda: data(args.setting, args.raw, args.out),
        "cell": lambda: cell(args.method, args.setting, args.data, args.out),
        "write": lambda: write(args.cells, args.out),
    }
    stage.run(works[args.part])


if __name__ == "__main__":
    main()
