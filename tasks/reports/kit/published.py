"""Published results, and the comparable ones among them: those under the same protocol.

`tasks/reports/published.csv` has one row per result. `accuracy` and its `ci95` are in percent, as
printed; regression has `mse`. `rotations` lists the splits in which rotated Omniglot characters
count as additional classes: all, training, test or none. An empty field is not recorded.
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
"""Protocol fields in which published results may differ: column name and label."""

MAML_SINUSOID_RANGES = {
    "amplitude": [0.1, 5.0],
    "phase": [0.0, 3.141592653589793],
    "x": [-5.0, 5.0],
}


def extract_protocol(results: Results, settings: dict[str, Any]) -> dict[str, str]:
    """Return the protocol of a run, keyed by the columns of the table.

    Args:
        results: The results of a run.
        settings: Its params.yaml.
    """
    meta = results.meta
    dataset_settings = settings["dataset"].get(meta["dataset"]) or {}
    sizes = meta.get("varied", meta)
    task = {"dataset": meta["dataset"], "ways": str(sizes["ways"]), "shots": str(sizes["shots"])}
    if results.kind == "regression":
        ranges = {
            key: [float(v) for v in dataset_settings.get(key, limits)]
            for key, limits in MAML_SINUSOID_RANGES.items()
        }
        split = "maml" if ranges == MAML_SINUSOID_RANGES else "other ranges"
        return task | {"split": split, "steps": str(results.steps)}
    balanced = meta.get("query_balance") is None
    if "rotations" in dataset_settings:
        task["rotations"] = describe_rotations(dataset_settings)
    return task | {
        "split": str(dataset_settings.get("split", meta["protocol"])),
        "queries": str(meta["queries"]) if balanced else f"{meta['queries']}, unbalanced",
        "batch_norm": results.mode,
    }


def describe_rotations(dataset_settings: dict[str, Any]) -> str:
    """Return the splits in which rotated Omniglot characters count as additional classes.

    Args:
        dataset_settings: The section of the dataset in params.yaml.
    """
    if not dataset_settings.get("rotations"):
        return "none"
    return "all" if dataset_settings.get("rotate_test") else "training"


def find_published_results(protocol: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the published results for a dataset, ways and shots.

    Returns:
        The results under the same protocol, and those under other protocols. Both tables have
        `printed` (the result as its source prints it), `differs` (how the protocol differs, '' for
        the same), and as fractions `value` and `ci95_half` (NaN without an interval).
    """
    table = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    matches = np.logical_and.reduce(
        [table[key] == protocol[key] for key in ("dataset", "ways", "shots")]
    )
    found = table[matches].copy()
    is_accuracy = found["accuracy"] != ""
    printed = found["accuracy"].where(is_accuracy, found["mse"])
    scale = is_accuracy.map({True: 0.01, False: 1.0}).astype(float)
    found["value"] = pd.to_numeric(printed) * scale
    found["ci95_half"] = pd.to_numeric(found["ci95"]) * scale
    unit = np.where(is_accuracy, f"{wording.NBSP}%", "")
    interval = (" ± " + found["ci95"]).where(found["ci95"] != "", "")
    found["printed"] = printed + unit + interval
    found["differs"] = [describe_differences(row, protocol) for row in found.to_dict("records")]
    same = found["differs"] == ""
    return found[same].reset_index(drop=True), found[~same].reset_index(drop=True)


def describe_differences(published: dict[Any, Any], protocol: dict[str, str]) -> str:
    """Describe how the protocol of a published result differs, or which fields are not recorded.

    Returns '' for the same protocol.
    """
    keys = [key for key in FIELDS if key in protocol and published[key] != protocol[key]]
    known = [
        f"{FIELDS[key]} {published[key]} (here {protocol[key]})" for key in keys if published[key]
    ]
    unknown = [FIELDS[key] for key in keys if not published[key]]
    return "; ".join(known + ([f"not recorded: {', '.join(unknown)}"] if unknown else []))
