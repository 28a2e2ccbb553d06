"""The benchmark of people: Lake's 20 runs of one-shot classification, answered by trained models.

    python -m benchmarks.people models/run [MODEL ...] [--data data/prepared]

A run has 20 characters of one new alphabet, one drawing each, and 20 drawings by another writer.
Models answer through `adapt` and `predict`. The command first compares the drawings of the runs
with the images in `--data`, the prepared data that the models were trained on: a model that was
trained or validated on one of them is rejected. Without a model, only the baseline is measured. The
runs come from EPISODIC_MIRROR (omniglot/all_runs.zip), `--runs`, or the official address.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import episodic
from episodic.core.errors import UserError
from episodic.core.statistics import mean_ci95
from episodic.datasets.sources.fetch import MIRROR_VARIABLE
from episodic.datasets.sources.one_shot_runs import ARCHIVE, Trial, fetch_runs, read_runs
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.fixed_trials import answer_trials
from tasks import prepared


class Published(NamedTuple):
    """A published error on the 20 runs, in per cent."""

    name: str
    error: float
    source: str


LAKE_2015 = "Lake et al. 2015, https://doi.org/10.1126/science.aab3050"
LAKE_2019 = "Lake et al. 2019, https://arxiv.org/abs/1902.03477"
PUBLISHED = (
    Published("BPL (learns from strokes)", 3.3, LAKE_2015),
    Published("people", 4.5, LAKE_2015),
    Published("Siamese network", 8.0, LAKE_2015),
    Published("convolutional network", 13.5, LAKE_2015),
    Published("ProtoNet", 13.7, LAKE_2019),
    Published(
        "modified Hausdorff distance", 38.8, "demo of https://github.com/brendenlake/omniglot"
    ),
)


def read_ink(png: bytes) -> np.ndarray:
    """Return the positions of the ink of a drawing relative to their mean, `(n, 2)`."""
    ink = np.argwhere(~np.asarray(Image.open(io.BytesIO(png)).convert("1")))
    centred: np.ndarray = ink - ink.mean(0)
    return centred


def hausdorff_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the modified Hausdorff distance of two sets of points, `(n, 2)` and `(m, 2)`.

    Source: Dubuisson, Jain: A modified Hausdorff distance for object matching, 1994.
    """
    squared = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2
    return float(max(np.sqrt(squared.min(axis)).mean() for axis in (0, 1)))


def baseline_errors(trials: Sequence[Trial]) -> np.ndarray:
    """Return the error of the nearest drawing by the modified Hausdorff distance, per trial."""
    errors = []
    for trial in trials:
        support, query = (
            [read_ink(png) for png in drawings] for drawings in (trial.support_x, trial.query_x)
        )
        nearest = [
            trial.support_y[int(np.argmin([hausdorff_distance(item, s) for s in support]))]
            for item in query
        ]
        errors.append(np.mean([a != b for a, b in zip(nearest, trial.query_y, strict=True)]))
    return np.array(errors)


def count_seen(learner: FewShotLearner, trials: Sequence[Trial], data: Path) -> dict[str, int]:
    """Count the drawings of the trials that are among the images a model was made with.

    Args:
        learner: The model, whose preprocessing makes drawings and images comparable.
        trials: The trials.
        data: The folder `data/prepared` of the model's run.

    Returns:
        The number of drawings by split.

    Raises:
        UserError: The folder is not the data of the model.
    """
    source = prepared.open_folder(data, torch.device("cpu"))
    if source.meta["data_digest"] != learner.config["data_digest"]:
        raise UserError(
            f"{data} is not the data that the model was trained on: pass its folder with --data"
        )
    drawings = [png for trial in trials for png in (*trial.support_x, *trial.query_x)]
    pixels = (learner.inputs(drawings) * 255).round().to(torch.uint8).numpy()
    images = np.load(data / "images.npy", mmap_mode="r")
    seen = {}
    for split, classes in source.read_classes().groupby("split"):
        rows = (range(o, o + n) for o, n in zip(classes["offset"], classes["count"], strict=True))
        known = {images[row].tobytes() for row_range in rows for row in row_range}
        seen[str(split)] = sum(image.tobytes() in known for image in pixels)
    return seen


def require_unseen(path: Path, learner: FewShotLearner, trials: Sequence[Trial], data: Path) -> str:
    """Return a sentence on the drawings of the trials that a model was made with.

    Raises:
        UserError: The model was trained or validated on some of them.
    """
    seen = count_seen(learner, trials, data)
    drawings = sum(len(trial.support_x) + len(trial.query_x) for trial in trials)
    known = {split: n for split, n in seen.items() if n and split != "test"}
    if known:
        counts = " and ".join(f"{n} ({split})" for split, n in known.items())
        raise UserError(
            f"{path} has seen drawings of the runs: {counts} of {drawings}; train a model with "
            "dataset.omniglot.split: lake"
        )
    return (
        f"{path}: none of the {drawings} drawings is in its training or validation data, "
        f"{seen.get('test', 0)} are in its test data"
    )


def measure(
    models: Sequence[Path], trials: Sequence[Trial], data: Path
) -> list[tuple[str, np.ndarray]]:
    """Return the name and the errors by trial of the baseline and of each model.

    Raises:
        UserError: A model cannot be loaded, or has seen drawings of the trials.
    """
    learners = [(path, episodic.load(path)) for path in models]
    for path, learner in learners:
        print(require_unseen(path, learner, trials, data), file=sys.stderr)
    rows = [(str(path), answer_trials(learner, trials).errors) for path, learner in learners]
    return [("modified Hausdorff distance", baseline_errors(trials)), *rows]


def write_rows(path: Path, rows: Sequence[tuple[str, np.ndarray]], trials: Sequence[Trial]) -> None:
    """Write the errors as a table with one row per model and trial."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "run", "error"])
        for name, errors in rows:
            for trial, error in zip(trials, errors, strict=True):
                writer.writerow([name, trial.name, f"{error:.4f}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="folders of trained models")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"), help="their data")
    parser.add_argument("--runs", type=Path, help=f"{ARCHIVE} or its unpacked folder")
    parser.add_argument("--out", type=Path, help="CSV file to write: the error of each run")
    args = parser.parse_args()
    mirror = os.environ.get(MIRROR_VARIABLE)
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / ARCHIVE
            fetch_runs(archive, source=args.runs, mirror=Path(mirror) if mirror else None)
            trials = read_runs(archive)
        rows = measure(args.models, trials, args.data)
    except UserError as error:
        sys.exit(f"error: {error}")
    if args.out:
        write_rows(args.out, rows, trials)
    print("| | error | published |\n|---|---:|---|")
    for published in PUBLISHED:
        print(f"| {published.name} | {published.error:.1f} % | {published.source} |")
    for name, errors in rows:
        mean, half = mean_ci95(errors)
        print(f"| {name} | {100 * mean:.1f} % ± {100 * half:.1f} | measured |")


if __name__ == "__main__":
    main()
