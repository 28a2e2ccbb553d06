"""Labels needed for the accuracy that random choice has with 30 labels.

    EPISODIC_MIRROR=FOLDER python -m benchmarks.labels grocery [--sessions 200]

A session is a user with a new task of 10 test classes and an unbalanced pool of their examples
(shares from a Dirichlet distribution with concentration 2, at least one example per class). Labels
are added in batches of 5; after each, the model is adapted and its accuracy measured on examples
that are not in the pool, equally many per class. A cold start has no label, a warm start one per
class. All strategies see the same sessions. The table is written to `results/DATASET.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.labels.data import DATASETS, BenchmarkData, open_dataset
from episodic.core import random_numbers
from episodic.data.sampling import apportion
from episodic.inference.adapted import AdaptedModel
from episodic.inference.few_shot import FewShotLearner

WAYS, BATCH, BUDGET, RESAMPLES = 10, 5, 30, 1000
POOL = {"omniglot": 10, "clinc150": 15, "grocery": 15}
"""Mean examples per class in the pool."""
HELD_OUT = {"omniglot": 5, "clinc150": 10, "grocery": 10}
"""Examples per class that accuracy is measured on."""
STRATEGIES = ("random", "margin", "coverage", "margin_coverage")


class Session(NamedTuple):
    """A task: a learner, and features and labels of the pool and of the held-out examples."""

    learner: FewShotLearner
    pool_x: Tensor
    pool_y: Tensor
    test_x: Tensor
    test_y: Tensor


def draw_session(data: BenchmarkData, name: str, index: int) -> Session:
    """Draw the classes of a session, the sizes of its classes, and their examples."""
    generator = random_numbers.generator(index, "labels benchmark")
    chosen = torch.randperm(len(data.counts), generator=generator)[:WAYS]
    held, total = HELD_OUT[name], WAYS * POOL[name]
    most = int(data.counts[chosen].min()) - held
    key = random_numbers.key(index, "labels benchmark, shares")
    shares = random_numbers.dirichlet(key, torch.tensor([0]), 2.0, WAYS)
    sizes = 1 + apportion(shares, total - WAYS, most - 1)[0]
    offsets = data.counts.cumsum(0) - data.counts
    pool, test, pool_y, test_y = [], [], [], []
    for label, (c, size) in enumerate(zip(chosen.tolist(), sizes.tolist(), strict=True)):
        rows = offsets[c] + torch.randperm(int(data.counts[c]), generator=generator)
        test.append(rows[:held])
        pool.append(rows[held : held + size])
        test_y += [label] * held
        pool_y += [label] * size
    order = torch.randperm(len(pool_y), generator=generator)
    learner, pool_x, test_x = data.embed(
        data.read(torch.cat(pool)[order]), data.read(torch.cat(test))
    )
    return Session(learner, pool_x, torch.tensor(pool_y)[order], test_x, torch.tensor(test_y))


def simulate(session: Session, strategy: str, warm: bool) -> list[float]:
    """Return the accuracy after each batch of labels."""
    x, y = session.pool_x, session.pool_y
    labelled: list[int] = []
    if warm:
        labelled = [int((y == label).nonzero()[0]) for label in range(WAYS)]
    accuracies = []
    for budget in range(2 * BATCH if warm else BATCH, BUDGET + 1, BATCH):
        if budget > len(labelled):
            rest = torch.tensor([i for i in range(len(x)) if i not in set(labelled)])
            adapted = _adapt(session, labelled)
            model = session.learner if adapted is None else adapted
            name = "random" if strategy == "margin" and adapted is None else strategy
            indices = model.suggest(x[rest], budget - len(labelled), name, seed=0).indices
            labelled += rest[torch.from_numpy(indices)].tolist()
        adapted = _adapt(session, labelled)
        if adapted is None:
            predicted = np.full(len(session.test_y), int(y[labelled[0]]))
        else:
            predicted = adapted.predict(session.test_x)
        accuracies.append(float((predicted == session.test_y.numpy()).mean()))
    return accuracies


def _adapt(session: Session, labelled: list[int]) -> AdaptedModel | None:
    """Adapt to the labelled examples; None as long as they are of one class."""
    labels = session.pool_y[labelled]
    if len(set(labels.tolist())) < 2:
        return None
    return session.learner.adapt(session.pool_x[labelled], labels)


def count_labels(numbers: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Interpolate the number of labels at which a curve first reaches the target, or infinity."""
    for i, accuracy in enumerate(curve):
        if accuracy >= target:
            if i == 0:
                return float(numbers[0])
            share = (target - curve[i - 1]) / (accuracy - curve[i - 1])
            return float(numbers[i - 1] + share * (numbers[i] - numbers[i - 1]))
    return float("inf")


def measure_saving(
    numbers: np.ndarray, curves: np.ndarray, random: np.ndarray
) -> tuple[float, float, float, float]:
    """Return the labels needed and the saving with its paired bootstrap interval over sessions."""
    generator = np.random.default_rng(0)

    def needed(rows: np.ndarray) -> float:
        return count_labels(numbers, curves[rows].mean(0), random[rows, -1].mean())

    n = len(curves)
    labels = needed(np.arange(n))
    savings = [1 - needed(generator.integers(0, n, n)) / BUDGET for _ in range(RESAMPLES)]
    low, high = np.quantile(savings, (0.025, 0.975))
    return labels, 1 - labels / BUDGET, float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--cache", type=Path, default=Path("build/labels"), help="prepared data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    mirror = os.environ.get("EPISODIC_MIRROR")
    data = open_dataset(args.dataset, args.split, args.cache, Path(mirror) if mirror else None)
    curves: dict[tuple[str, str], list[list[float]]] = {}
    for index in range(args.sessions):
        session = draw_session(data, args.dataset, index)
        for start in ("cold", "warm"):
            for strategy in STRATEGIES:
                accuracies = simulate(session, strategy, start == "warm")
                curves.setdefault((start, strategy), []).append(accuracies)
        print(f"{index + 1} of {args.sessions} sessions", end="\r", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{args.dataset}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = ["dataset", "start", "strategy", "sessions", "labels", "saving", "low", "high"]
        writer.writerow([*names, *(f"accuracy_{n}" for n in range(BATCH, BUDGET + 1, BATCH))])
        for (start, strategy), rows in curves.items():
            table, random = np.array(rows), np.array(curves[start, "random"])
            numbers = np.arange(BATCH if start == "cold" else 2 * BATCH, BUDGET + 1, BATCH)
            found = (float(BUDGET), 0.0, 0.0, 0.0)
            if strategy != "random":
                found = measure_saving(numbers, table, random)
            saving = [f"{value:.4f}" for value in found]
            means = [""] * (start == "warm") + [f"{value:.4f}" for value in table.mean(0)]
            writer.writerow([args.dataset, start, strategy, len(table), *saving, *means])


if __name__ == "__main__":
    main()
