"""What the implicit meta-gradient of iMAML is worth: training with it and with the first-order one.

    python -m benchmarks.implicit_gradient                  # mlp, without batch norm
    python -m benchmarks.implicit_gradient --model conv4    # as in the method benchmark

Both trainings have the same inner loop, seeds and tasks: 5-way 1-shot glyphs of 28 alphabets. Their
accuracies on test episodes of 8 other alphabets are compared with a paired 95 % interval over
episodes. A large damping makes the meta-gradient first-order.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

import episodic as ep
from episodic.algorithms.imaml import IMAML
from episodic.core.model import ModelSpec
from episodic.core.statistics import mean_ci95
from episodic.datasets.glyphs import draw_alphabet

SETTINGS: dict[str, tuple[ModelSpec, IMAML]] = {
    "mlp": (ep.MLP(hidden=(64,)), IMAML(0.1, 50, 0.5, cg_steps=5)),
    "conv4": (ep.Conv4(filters=16), IMAML(0.5, 6, 0.5, cg_steps=1, damping=50.0)),
}
FIRST_ORDER_DAMPING = 1e6


def make_sampler(split: str, alphabets: range) -> ep.ClassSampler:
    """Make a sampler of the characters of some alphabets."""
    classes = [image for i in alphabets for image in torch.from_numpy(draw_alphabet(i))[:, :, None]]
    return ep.ClassSampler.from_classes(classes, ways=5, shots=1, queries=5, split=split)


def train_and_test(
    spec: ModelSpec, algorithm: IMAML, iterations: int, seed: int, episodes: int
) -> torch.Tensor:
    """Train a model and return its accuracy in each test episode, float32 `(episodes,)`."""
    model = spec.build((1, 28, 28), outputs=5)
    learner = ep.MetaLearner(model, algorithm, ep.Objective("classification"))
    validation = make_sampler("validation", range(28, 32))(torch.arange(100))
    config = ep.TrainingConfig(
        iterations=iterations,
        meta_batch=8,
        meta_lr=0.003,
        seed=seed,
        validate_every=max(1, iterations // 4),
    )
    result = ep.train(learner, make_sampler("train", range(28)), validation, config)
    test = make_sampler("test", range(32, 40))(torch.arange(episodes))
    accuracies = []
    for first in range(0, episodes, 50):
        task = test.slice_tasks(first, min(first + 50, episodes))
        adapted = ep.adapt(learner, result.theta, task)
        predicted = learner.query_outputs(adapted, task).argmax(-1)
        accuracies.append((predicted == task.query_y).float().mean(1))
    return torch.cat(accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SETTINGS, default="mlp")
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=600, help="test episodes")
    args = parser.parse_args()
    spec, implicit = SETTINGS[args.model]
    variants = {
        "implicit": implicit,
        "first-order": replace(implicit, cg_steps=1, damping=FIRST_ORDER_DAMPING),
    }
    for seed in range(args.seeds):
        scores = {}
        for name, algorithm in variants.items():
            start = time.perf_counter()
            scores[name] = train_and_test(spec, algorithm, args.iterations, seed, args.episodes)
            mean, ci95 = mean_ci95(scores[name].numpy())
            seconds = time.perf_counter() - start
            print(
                f"{args.model}, seed {seed}, {name}: {100 * mean:.1f} % ± {100 * ci95:.1f} "
                f"({seconds:.0f} s)",
                flush=True,
            )
        mean, ci95 = mean_ci95((scores["implicit"] - scores["first-order"]).numpy())
        print(f"  implicit - first-order: {100 * mean:+.1f} ± {100 * ci95:.1f} points", flush=True)


if __name__ == "__main__":
    main()
