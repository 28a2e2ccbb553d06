"""Published figures, and which of them are comparable: those under the same protocol.

`tasks/reports/published.csv` has one row per figure. `accuracy` and its `ci95` are in percent, as
printed; regression has `mse`. `rotations` says for which Omniglot classes the rotations count as
additional classes: all, training, test or none. An empty field is not recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import wording
from tasks.reports.kit.results import Results

TABLE = Path(__file__).resolve().parents[1] / "published.csv"

FIELDS = {
    "split": "split",
    "rotations": "rotations",
    "queries": "queries per class",
    "batch_norm": "batch norm",
    "steps": "inner steps",
}
"""In what two figures of one dataset, ways and shots can differ: column and name."""

MAML_FAMILY = {"amplitude": [0.1, 5.0], "phase": [0.0, 3.141592653589793], "x": [-5.0, 5.0]}


def describe_protocol(results: Results, raw: dict[str, Any]) -> dict[str, str]:
    """Return what has to be equal for a fair comparison, in the terms of the table.

    Args:
        results: The results of a run.
        raw: Its params.yaml.
    """
    meta, section = results.meta, raw["dataset"].get(results.meta["dataset"]) or {}
    task = {"dataset": meta["dataset"], "ways": str(meta["ways"]), "shots": str(meta["shots"])}
    if results.kind == "regression":
        family = {
            key: [float(v) for v in section.get(key, limits)] for key, limits in MAML_FAMILY.items()
        }
        split = "maml" if family == MAML_FAMILY else "other ranges"
        return task | {"split": split, "steps": str(results.steps)}
    return task | {
        "split": str(section.get("split", meta["protocol"])),
        "rotations": describe_rotations(section),
        "queries": str(meta["queries"]),
        "batch_norm": results.mode,
    }


def describe_rotations(section: dict[str, Any]) -> str:
    """Return for which Omniglot classes the rotations count as additional classes.

    Args:
        section: The section of the dataset in params.yaml.
    """
    if not section.get("rotations"):
        return "none"
    return "all" if section.get("rotate_test") else "training"


def find_figures(protocol: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the figures for a dataset, ways and shots: under the same protocol, and the others.

    Both tables have `printed` (the figure as its source prints it), `differs` (how the protocol
    differs, '' for the same), and as fractions `value` and `ci95_half` (NaN without an interval).
    """
    table = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    task = np.logical_and.reduce(
        [table[key] == protocol[key] for key in ("dataset", "ways", "shots")]
    )
    figures = table[task].copy()
    is_accuracy = figures["accuracy"] != ""
    printed = figures["accuracy"].where(is_accuracy, figures["mse"])
    scale = is_accuracy.map({True: 0.01, False: 1.0}).astype(float)
    figures["value"] = pd.to_numeric(printed) * scale
    figures["ci95_half"] = pd.to_numeric(figures["ci95"]) * scale
    unit = np.where(is_accuracy, f"{wording.NBSP}%", "")
    interval = (" ± " + figures["ci95"]).where(figures["ci95"] != "", "")
    figures["printed"] = printed + unit + interval
    figures["differs"] = [differences(row, protocol) for row in figures.to_dict("records")]
    same = figures["differs"] == ""
    return figures[same].reset_index(drop=True), figures[~same].reset_index(drop=True)


def differences(row: dict[Any, Any], protocol: dict[str, str]) -> str:
    """Describe how the protocol of a figure differs or is not recorded; '' for the same."""
    keys = [key for key in FIELDS if key in protocol and row[key] != protocol[key]]
    known = [f"{FIELDS[key]} {row[key]} (here {protocol[key]})" for key in keys if row[key]]
    unknown = [FIELDS[key] for key in keys if not row[key]]
    return "; ".join(known + ([f"not recorded: {', '.join(unknown)}"] if unknown else []))
