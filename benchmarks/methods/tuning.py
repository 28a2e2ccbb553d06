"""Compare variants of a recipe at equal training time by validation episodes, and record them.

    python -m benchmarks.methods.tuning METHOD SETTING --raw FOLDER [--try CHANGES ...]

    python -m benchmarks.methods.tuning reptile 5w1s --raw benchmarks/methods/raw/omniglot
        --try "" --try "algorithm.reptile.inner_steps=8 train.meta_batch=3"

Each CHANGES is a variant: parameters of the recipe with other values, or "" for the recipe as it
is. A variant trains for as many iterations as the minutes (`--minutes`) of one core allow, with the
schedule of its learning rate fitted to them. Its score is that of the best model on 1,000
validation episodes; the test classes are never read. tuning.csv in this folder gets one row per
variant.
"""

from __future__ import annotations

import argparse
import copy
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from benchmarks.methods.cell import FOLDER, read_settings
from tasks import episodes, params, train
from tasks.params.defaults import default_params
from tasks.runtime import stage
from tasks.runtime.stage import StageError

RECORD = FOLDER / "tuning.csv"
VALIDATION_EPISODES = 1000
NOT_RECORDED = (
    "dataset.",
    "episodes.",
    "algorithm.name",
    "train.iterations",
    "train.validate_every",
    "train.checkpoint_every",
)
"""Parameters that are those of the setting or follow from the minutes."""

PROBE_SECONDS = 12.0
"""A probe must train for about this long to measure the time per iteration."""


def find_differences(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the defaults, by dotted key."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            inner = find_differences(value, defaults[key])
            found.update({f"{key}.{name}": changed for name, changed in inner.items()})
        elif value != defaults[key]:
            found[key] = value
    return found


def change(values: dict[str, Any], changes: str) -> None:
    """Change parameters in place, such as `train.meta_lr=0.001 train.meta_batch=8`.

    Raises:
        StageError: A parameter does not exist.
    """
    for item in changes.split():
        key, _, value = item.partition("=")
        *path, name = key.split(".")
        section: Any = values
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise StageError(f"{key} in {item!r} is no parameter of params.yaml")
        section[name] = yaml.safe_load(value)


def run_training(
    values: dict[str, Any], iterations: int, points: int, prepared: Path
) -> tuple[pd.DataFrame, float]:
    """Train and return validation.csv and the seconds that it took."""
    values["train"]["iterations"] = iterations
    values["train"]["validate_every"] = max(1, iterations // points)
    values["train"]["checkpoint_every"] = iterations
    values["processes"] = 1
    settings = params.parse(values, "tuning")
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        folder = Path(name)
        start = time.perf_counter()
        train.run(settings, prepared, folder / "model", folder / "history", folder / "run.json")
        return pd.read_csv(folder / "history" / "validation.csv"), time.perf_counter() - start


def count_iterations(values: dict[str, Any], minutes: float, prepared: Path) -> int:
    """Return how many iterations fit into the minutes, from two short trainings."""
    values = copy.deepcopy(values)
    values["train"]["ensemble"] = 1  # of one validation
    few = 4
    run_training(values, few, 1, prepared)  # the first training of a process takes longer
    _, overhead = run_training(values, few, 1, prepared)
    more = 2 * few
    while True:
        _, seconds = run_training(values, few + more, 1, prepared)
        if seconds - overhead > PROBE_SECONDS:
            return max(8, round(minutes * 60 * more / (seconds - overhead)))
        more *= 4


def try_variant(
    method: str, setting: str, changes: str, minutes: float, prepared: Path
) -> dict[str, Any]:
    """Train a variant of a recipe and return its row of the record."""
    values = read_settings(setting, method)
    change(values, changes)
    recipe = find_differences(values, default_params())
    iterations = count_iterations(values, minutes, prepared)
    history, seconds = run_training(values, iterations, 8, prepared)
    best = history.sort_values("accuracy").iloc[-1]
    ignored = (
        "dataset.",
        "episodes.",
        "algorithm.name",
        "train.iterations",
        "train.validate_every",
    )
    shown = {key: value for key, value in recipe.items() if not key.startswith(ignored)}
    return {
        "setting": setting,
        "method": method,
        "recipe": " ".join(f"{key}={value}" for key, value in shown.items()),
        "iterations": iterations,
        "minutes": f"{seconds / 60:.1f}",
        "validation": f"{best['accuracy']:.4f}",
        "ci95": f"{best['accuracy_ci95']:.4f}",
    }


def append(row: dict[str, Any]) -> None:
    """Append a row to the record."""
    is_new = not RECORD.exists()
    with RECORD.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def tune(method: str, setting: str, raw: Path, minutes: float, variants: list[str]) -> None:
    """Try the variants one after the other and record each as soon as it has been trained."""
    torch.set_num_threads(1)
    values = read_settings(setting)
    values["episodes"]["validation"] = VALIDATION_EPISODES
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        prepared = Path(name) / "data"
        episodes.run(params.parse(values, "tuning"), raw, prepared)
        for changes in variants or [""]:
            row = try_variant(method, setting, changes, minutes, prepared)
            append(row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method")
    parser.add_argument("setting")
    parser.add_argument("--raw", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--try", dest="variants", action="append", default=[], metavar="CHANGES")
    args = parser.parse_args()
    stage.run(lambda: tune(args.method, args.setting, args.raw, args.minutes, args.variants))


if __name__ == "__main__":
    main()
