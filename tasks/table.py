"""The papers' table from its cells (tasks/cell.py): results.csv, results.md and results.svg."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from episodic.statistics import mean_ci95
from tasks import stage
from tasks.files import ROOT, folder_beside, read_json, write_text
from tasks.params import read_yaml
from tasks.reporting import words
from tasks.stage import StageError

BASELINE = "maml"
PUBLISHED = {
    "anil": "ANIL", "boil": "BOIL", "finetune": "fine-tuning", "fomaml": "first-order MAML", "imaml": "iMAML (GD)", "maml": "MAML",
    "maml_plus_plus": "MAML++", "matching_net": "matching networks", "meta_lstm": "Meta-LSTM", "meta_sgd": "Meta-SGD",
    "protonet": "ProtoNet", "reptile": "Reptile",
}  # fmt: skip
"""What tasks/published.csv calls a method."""

KEYS = {"batch_norm", "data_digest", "ensemble", "iterations", "label_sd", "meta_batch", "peak_memory_bytes", "seconds", "steps"}
"""What a cell must say of itself."""

LEGEND = (
    "Accuracy on the same 1,000 test episodes, with the 95 % interval of the mean. It is transductive, in training and at test: query "
    "images are normalised by each other's batch statistics, as in MAML's code; `inductive`: the same model, normalised by the support set "
    "alone. "
    "The published figures of the metric methods, closed-form heads and pre-trained classifiers are for running averages instead."
)


def rows(cells: Path) -> pd.DataFrame:
    """One row a cell: accuracy with its interval, the paired difference to MAML on the same episodes, what it took, what was published."""
    found = {}
    for path in sorted(cells.glob("*/cell.json")):
        facts = read_json(path)
        if absent := KEYS - facts.keys():
            raise StageError(f"{path} was made by other code (it lacks {', '.join(sorted(absent))}): run make table")
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
            if other["data_digest"] != facts["data_digest"]:
                raise StageError(f"{method} and {BASELINE} were tested on different {setting} episodes: run make table")
            row["to_maml"], row["to_maml_ci95"] = mean_ci95(score - theirs[other["batch_norm"]].to_numpy())
        ways, shots = setting[:-1].split("w")
        same = published[
            (published["dataset"] == "omniglot") & (published["network"] == "conv4") & (published["method"] == PUBLISHED.get(method, ""))
            & (published["ways"] == ways) & (published["shots"] == shots)
        ]  # fmt: skip
        columns = {"published": "accuracy", "published_ci95": "ci95", "published_note": "note"}
        printed = {key: same[of].iloc[0] if len(same) else "" for key, of in columns.items()}
        took = {key: facts[key] for key in ("steps", "iterations", "meta_batch", "ensemble", "seconds", "label_sd", "peak_memory_bytes")}
        result.append({"setting": setting, "method": method} | row | printed | took)
    table = pd.DataFrame(result)
    order = {name: i for i, name in enumerate(sorted(set(table["setting"]), key=_size))}
    return table.sort_values(["setting", "accuracy"], key=lambda c: c.map(order) if c.name == "setting" else -c, ignore_index=True)


def _size(setting: str) -> tuple[int, int]:
    ways, shots = setting[:-1].split("w")
    return int(ways), int(shots)


def markdown(table: pd.DataFrame, notes: dict[str, str]) -> str:
    """The table for README, a part a setting; notes: what is to be said of a method, as why it falls short of its publication."""
    parts = [LEGEND]
    for setting, part in table.groupby("setting", sort=False):
        head = ["method", "accuracy", "inductive", "to MAML, same episodes", "training", "memory", "published", "note"]
        lines = [f"**Omniglot, {setting}**\n", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in part.to_dict("records"):
            together = f"{row['ensemble']} checkpoints answer together" if row["ensemble"] > 1 else ""
            cells = [
                f"`{row['method']}`",
                words.figure("accuracy", row["accuracy"], row["ci95"]),
                words.percent(row["inductive"]),
                "" if np.isnan(row["to_maml"]) else f"{100 * row['to_maml']:+.1f} ± {100 * row['to_maml_ci95']:.1f}",
                f"{row['iterations']:,} x {row['meta_batch']} tasks, {row['seconds'] / 60:.1f} min",
                f"{row['peak_memory_bytes'] / 1e9:.1f} GB",
                (f"{row['published']} %" if row["published"] else "") + (f" ± {row['published_ci95']}" if row["published_ci95"] else ""),
                "; ".join(filter(None, [together, row["published_note"], notes.get(row["method"], "")])),
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
        scale, axis = alt.Scale(domain=[low, 1.0], nice=False, zero=False), alt.Axis(format=".1%", title="accuracy")
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


def write(cells: Path, notes_yaml: Path, out: Path) -> None:
    table = rows(cells)
    notes = read_yaml(notes_yaml) or {}
    with folder_beside(out) as draft:
        table.to_csv(draft / "results.csv", index=False)
        write_text(draft / "results.md", markdown(table, notes))
        write_text(draft / "results.svg", picture(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=Path, required=True, help="folder of cells: METHOD-SETTING/cell.json, METHOD-SETTING/episodes.csv")
    parser.add_argument("--notes", type=Path, required=True, help="file of notes, one a method")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    stage.run(lambda: write(args.cells, args.notes, args.out))


if __name__ == "__main__":
    main()
