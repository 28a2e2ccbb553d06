"""How far heads without meta-training can be trusted, on photographs.

    python -m benchmarks.calibration FOLDER [--split test] [--shots 2 5 10] [--episodes 300]

FOLDER has one folder of photographs per class. Classes are split as by the dataset `image_folder`
with seed 0. `--split validation` is the split on which the prior of the temperature was chosen.
Tasks have five classes. The queries of two more classes are those of unknown classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import episodic
from episodic.data.sampling import ClassSampler
from episodic.datasets.sources.folder import assign_splits
from episodic.inference.heads import CALIBRATED
from episodic.preprocessing.encoders.architectures import LITE0
from episodic.training.calibration import measure_calibration_error, negative_log_likelihoods

WAYS, UNKNOWN_CLASSES = 5, 2
RATES = ("90 % sets: coverage", "classes", "accepted: known", "unknown")
FRACTIONS = (0.6, 0.19, 0.21)
"""Shares of the classes for training, validation and test in docs/results/photographs.md."""


def read_features(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode the photographs of a split: features `(n, width)`, and their number by class."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    splits = assign_splits(names, FRACTIONS, 0)
    files = [sorted((folder / name).iterdir()) for name in names if splits[name] == split]
    inputs = episodic.from_encoder(LITE0).inputs
    return inputs([path for paths in files for path in paths]), torch.tensor(list(map(len, files)))


def measure(
    head: str, features: torch.Tensor, counts: torch.Tensor, shots: int, episodes: int
) -> list[str]:
    """Return the cells of a row, with 95 % intervals.

    They are the accuracy; ECE and negative log-likelihood, before and after; coverage and size of
    90 % sets; and which queries of known and of unknown classes are accepted as known.
    """
    ways = WAYS + UNKNOWN_CLASSES
    sampler = ClassSampler(features, counts.cumsum(0) - counts, counts, 0, "test", ways, shots, 15)
    learner = episodic.from_encoder(LITE0, head)
    confidence, correct, losses, rates = [], [], [], []
    for i in range(episodes):
        episode = sampler(torch.tensor([i]))
        given, is_known = episode.support_y[0] < WAYS, (episode.query_y[0] < WAYS).numpy()
        support_y = episode.support_y[0, given].tolist()
        adapted = learner.adapt(episode.support_x[0, given].numpy(), support_y)
        predicted = adapted.predict_all(episode.query_x[0].numpy(), unknown=True)
        y = episode.query_y[0].numpy()[is_known]
        logits = adapted.outputs(episode.query_x[0, torch.from_numpy(is_known)]).double()
        if predicted.is_unknown is None:
            raise RuntimeError(f"{head} cannot detect unknown classes")
        members, accepted = predicted.find_members(0.9)[is_known], ~predicted.is_unknown
        covered = members[np.arange(len(y)), y].mean()
        of_sets = covered, members.sum(1).mean() / 100
        rates.append([*of_sets, accepted[is_known].mean(), accepted[~is_known].mean()])
        both = [z.softmax(-1).numpy() for z in (logits, adapted.calibrate(logits))]
        confidence.append([p.max(1) for p in both])
        correct.append(both[0].argmax(1) == y)
        losses.append([negative_log_likelihoods(p, y).mean() for p in both])
    hits, index = np.concatenate(correct), np.arange(episodes).repeat(75)
    cells = [f"{100 * hits.mean():.1f} %"]
    for of_episode in np.stack(confidence, 1):
        error = measure_calibration_error(of_episode.ravel(), hits, index, 0)
        cells.append(f"{100 * error.error:.1f} % ± {100 * error.ci95:.1f}")
    for of_episode in np.stack(losses, 1):
        half = 1.96 * of_episode.std(ddof=1) / np.sqrt(episodes)
        cells.append(f"{of_episode.mean():.3f} ± {half:.3f}")
    for name, of_episode in zip(RATES, np.stack(rates, 1), strict=True):
        half = 1.96 * of_episode.std(ddof=1) / np.sqrt(episodes)
        unit, digits = ("", 2) if name == "classes" else (" %", 1)
        cells.append(f"{100 * of_episode.mean():.{digits}f}{unit} ± {100 * half:.{digits}f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of photographs by class")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--shots", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--heads", nargs="+", choices=CALIBRATED, default=CALIBRATED)
    parser.add_argument("--episodes", type=int, default=300)
    args = parser.parse_args()
    features, counts = read_features(args.folder, args.split)
    errors = "head | shots | accuracy | ECE before | after | NLL before | after"
    print(f"| {errors} | {' | '.join(RATES)} |")
    print(f"|---|{'---:|' * (6 + len(RATES))}")
    for shots in args.shots:
        enough = counts >= shots + 15
        kept = features[enough.repeat_interleave(counts)]
        for head in args.heads:
            cells = measure(head, kept, counts[enough], shots, args.episodes)
            print(f"| `{head}` | {shots} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
