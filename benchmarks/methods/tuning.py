"""Compare variants of a recipe at equal training time by validation episodes, and record them.

    python -m benchmarks.methods.tuning METHOD SETTING --raw FOLDER [--try CHANGES ...]

    python -m benchmarks.methods.tuning reptile 5w1s --raw benchmarks/methods/raw/omniglot
        --try "" --try "algorithm.reptile.inner_steps=8 train.meta_batch=3"

Each CHANGES is a variant: parameters of the recipe with other values, or "" for the recipe as it
is. A variant trains for as many iterations as fit into some minutes (`--minutes`) of CPU time, with
the schedule of its learning rate fitted to them; validation is not counted. Its score is that of
the best model on 1,000 validation episodes; the test classes are never read. tuning.csv in this
folder gets one row per variant.
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
from tasks.reports.kit.trees import flatten
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
"""CPU time that a probe must at least train for, to measure the time per iteration."""


def change(values: dict[str, Any], changes: str) -> None:
    """Change parameters in place, such as `train.meta_lr=0.001 train.meta_batch=8`.

    Raises:
        StageError: A parameter does not exist.
    """
    for item in changes.split():
        key, _, text = item.partition("=")
        if key not in flatten(values):
            raise StageError(f"{key!r} in {item!r} is no parameter of params.yaml")
        value = yaml.safe_load(text)
        for name in reversed(key.split(".")):
            value = {name: value}
        params.merge_into(values, value)


def describe_recipe(values: dict[str, Any]) -> str:
    """Describe the parameters of a recipe that differ from the defaults."""
    defaults = flatten(params.default_params())
    return " ".join(
        f"{key}={value}"
        for key, value in flatten(values).items()
        if value != defaults[key] and not key.startswith(NOT_RECORDED)
    )


def run_training(
    values: dict[str, Any], iterations: int, points: int, prepared: Path
) -> tuple[pd.DataFrame, float]:
    """Train and return validation.csv and the seconds of CPU time.

    Other programs affect the CPU time less than the time that passes.
    """
    values["train"]["iterations"] = iterations
    values["train"]["validate_every"] = max(1, iterations // points)
    values["train"]["checkpoint_every"] = iterations
    values["processes"] = 1
    settings = params.parse(values, "tuning")
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        folder = Path(name)
        start = time.process_time()
        train.run(settings, prepared, folder / "model", folder / "history", folder / "run.json")
        return pd.read_csv(folder / "history" / "validation.csv"), time.process_time() - start


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
    recipe = describe_recipe(values)
    iterations = count_iterations(values, minutes, prepared)
    history, _ = run_training(values, iterations, 8, prepared)
    best = history.sort_values("accuracy").iloc[-1]
    return {
        "setting": setting,
        "method": method,
        "recipe": recipe,
        "minutes": f"{minutes:g}",
        "iterations": iterations,
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
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU time of training (3)")
    parser.add_argument("--try", dest="variants", action="append", default=[], metavar="CHANGES")
    args = parser.parse_args()
    stage.run(lambda: tune(args.method, args.setting, args.raw, args.minutes, args.variants))


if __name__ == "__main__":
    main()
