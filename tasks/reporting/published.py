"""Published figures and which of them may stand beside ours: those of the same protocol, as far as it is known.

`tasks/published.csv` has one row a figure. `accuracy` and its `ci95` are percent as printed (`mse` for regression); `rotations`
says which Omniglot classes were turned into further ones (all, training, test, none); an empty field is one that the source does not state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tasks.reporting.results import Results

TABLE = Path(__file__).resolve().parent.parent / "published.csv"

NAMED = {
    "split": "split", "rotations": "rotated classes", "queries": "queries a class", "batch_norm": "batch norm", "steps": "inner steps",
}  # fmt: skip
"""What two figures of one data set, ways and shots can still differ in, in words."""

PAPERS_FAMILY = {"amplitude": [0.1, 5.0], "phase": [0.0, 3.141592653589793], "x": [-5.0, 5.0]}


def protocol(results: Results, raw: dict[str, Any]) -> dict[str, str]:
    """What has to be equal for a fair comparison, in the words of the table; `raw` is params.yaml."""
    meta, section = results.meta, raw["dataset"].get(results.meta["dataset"]) or {}
    same = {"dataset": meta["dataset"], "ways": str(meta["ways"]), "shots": str(meta["shots"])}
    if results.kind == "regression":
        family = {key: [float(v) for v in section.get(key, limits)] for key, limits in PAPERS_FAMILY.items()}
        return same | {"split": "maml" if family == PAPERS_FAMILY else "other ranges", "steps": str(results.steps)}
    turned = {(True, True): "all", (True, False): "training", (False, True): "test", (False, False): "none"}
    rotations = turned[bool(section.get("rotations")), bool(section.get("rotate_test"))]
    split = {"split": str(section.get("split", meta["protocol"])), "rotations": rotations}
    return same | split | {"queries": str(meta["queries"]), "batch_norm": results.mode}


def figures(mine: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the table for our data set, ways and shots: those of the same protocol, and the rest with `differs` in words.

    Both have `value`, `low` and `high` on our scale (fractions; NaN without an interval).
    """
    table = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    near = table[(table["dataset"] == mine["dataset"]) & (table["ways"] == mine["ways"]) & (table["shots"] == mine["shots"])].copy()
    percent = near["accuracy"] != ""
    number, half = pd.to_numeric(near["accuracy"].where(percent, near["mse"])), pd.to_numeric(near["ci95"])
    scale = percent.map({True: 0.01, False: 1.0}).astype(float)
    near["value"], near["low"], near["high"] = number * scale, (number - half) * scale, (number + half) * scale
    near["differs"] = [_differs(row, mine) for row in near.to_dict("records")]
    same = near["differs"] == ""
    return near[same].reset_index(drop=True), near[~same].reset_index(drop=True)


def _differs(row: dict[str, Any], mine: dict[str, str]) -> str:
    said = []
    for key in (key for key in NAMED if key in mine):
        if row[key] == "":
            said.append(f"{NAMED[key]} not stated")
        elif row[key] != mine[key]:
            said.append(f"{NAMED[key]} {row[key]} (here {mine[key]})")
    return "; ".join(said)
