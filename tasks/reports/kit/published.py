"""Published figures and which of them may stand beside ours: those of the same protocol, as far as it is known.

`tasks/reports/published.csv` has one row a figure. `accuracy` and its `ci95` are percent as printed (`mse` for regression); `rotations`
says which Omniglot classes were turned into further ones (all, training, test, none); an empty field is one that is not recorded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import wording
from tasks.reports.kit.results import Results

TABLE = Path(__file__).resolve().parents[1] / "published.csv"

NAMED = {
    "split": "split",
    "rotations": "rotated classes",
    "queries": "queries a class",
    "batch_norm": "batch norm",
    "steps": "inner steps",
}
"""What two figures of one data set, ways and shots can still differ in, in words."""

PAPERS_FAMILY = {"amplitude": [0.1, 5.0], "phase": [0.0, 3.141592653589793], "x": [-5.0, 5.0]}


def protocol(results: Results, raw: dict[str, Any]) -> dict[str, str]:
    """What has to be equal for a fair comparison, in the words of the table; `raw` is params.yaml."""
    meta, section = results.meta, raw["dataset"].get(results.meta["dataset"]) or {}
    same = {"dataset": meta["dataset"], "ways": str(meta["ways"]), "shots": str(meta["shots"])}
    if results.kind == "regression":
        family = {
            key: [float(v) for v in section.get(key, limits)]
            for key, limits in PAPERS_FAMILY.items()
        }
        return same | {
            "split": "maml" if family == PAPERS_FAMILY else "other ranges",
            "steps": str(results.steps),
        }
    split = {"split": str(section.get("split", meta["protocol"])), "rotations": turned(section)}
    return same | split | {"queries": str(meta["queries"]), "batch_norm": results.mode}


def turned(section: dict[str, Any]) -> str:
    """Which Omniglot classes were turned into further ones, in the words of the table, from the section of the data set."""
    if not section.get("rotations"):
        return "none"
    return "all" if section.get("rotate_test") else "training"


def figures(mine: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the table for our data set, ways and shots: those of the same protocol, and the rest with `differs` in words.

    Both have `printed` (the figure as its source has it), and on our scale (fractions) `value` and `half`, the half-width of its
    interval or NaN.
    """
    table = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    near = table[
        (table["dataset"] == mine["dataset"])
        & (table["ways"] == mine["ways"])
        & (table["shots"] == mine["shots"])
    ].copy()
    percent = near["accuracy"] != ""
    number = pd.to_numeric(near["accuracy"].where(percent, near["mse"]))
    scale = percent.map({True: 0.01, False: 1.0}).astype(float)
    near["value"], near["half"] = number * scale, pd.to_numeric(near["ci95"]) * scale
    unit, interval = (
        np.where(percent, f"{wording.NBSP}%", ""),
        (" ± " + near["ci95"]).where(near["ci95"] != "", ""),
    )
    near["printed"] = near["accuracy"].where(percent, near["mse"]) + unit + interval
    near["differs"] = [differs(row, mine) for row in near.to_dict("records")]
    same = near["differs"] == ""
    return near[same].reset_index(drop=True), near[~same].reset_index(drop=True)


def differs(row: dict[Any, Any], mine: dict[str, str]) -> str:
    """What of its protocol is another, or not recorded here, in words ('' for the same)."""
    keys = [key for key in NAMED if key in mine and row[key] != mine[key]]
    said = [f"{NAMED[key]} {row[key]} (here {mine[key]})" for key in keys if row[key] != ""]
    unknown = [NAMED[key] for key in keys if row[key] == ""]
    return "; ".join(said + ([f"not recorded: {', '.join(unknown)}"] if unknown else []))
