"""Workloads of the speed benchmarks, with random data. They require only torch and numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from episodic.algorithms.maml import MAML
from episodic.core import random_numbers
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.engine.learner import MetaLearner
from episodic.models import conv4


@dataclass(frozen=True)
class Workload:
    """A standard few-shot classification problem with a meta-batch of `tasks` tasks."""

    what: str
    shots: int
    queries: int
    tasks: int
    steps: int
    inner_lr: float
    input: tuple[int, int, int]
    model: conv4.Conv4
    ways: int = 5

    @cached_property
    def network(self) -> conv4.Conv4Model:
        return self.model.build(self.input, self.ways)

    @property
    def learner(self) -> MetaLearner:
        return MetaLearner(
            self.network,
            MAML(self.inner_lr, self.steps),
            Objective("classification"),
        )

    def theta(self, dtype: torch.dtype = torch.float32) -> Params:
        """Initialize weights with noise: some scales are negative, and all values differ."""
        generator = random_numbers.generator(0, "benchmark weights")
        theta = self.network.init(generator)
        perturbed = {
            name: p + 0.05 * torch.randn(p.shape, generator=generator) for name, p in theta.items()
        }
        for name in perturbed:
            if name.startswith("norm") and name.endswith("weight"):
                perturbed[name][::7] *= -1
        return {name: p.to(dtype) for name, p in perturbed.items()}

    def episode(self, dtype: torch.dtype = torch.float32, tasks: int | None = None) -> Episode:
        """Draw an episode: each class is a random image, each example that image with noise."""
        tasks = tasks or self.tasks
        generator = random_numbers.generator(1, "benchmark data")
        class_images = torch.randn(tasks, self.ways, 1, *self.input, generator=generator)

        def side(n: int) -> tuple[Tensor, Tensor]:
            noise = torch.randn(tasks, self.ways, n, *self.input, generator=generator)
            labels = torch.arange(self.ways).repeat_interleave(n).expand(tasks, -1)
            return (class_images + 0.5 * noise).flatten(1, 2).to(dtype), labels

        return Episode(*side(self.shots), *side(self.queries), self.ways)

    def floating_point_operations(self) -> float:
        """Count the operations in the convolutions of one second-order meta-gradient.

        The remaining operations are negligible. Let F be the operations of the forward convolutions
        of an image, and F1 those of the first layer. A query image requires 3 F - F1, a support
        image 9 F - 5 F1 per inner step, because images have no gradient.
        """
        channels, (height, width) = self.input[0], self.input[1:]
        layers = []
        for _ in range(self.model.blocks):
            if self.model.downsample == "stride":
                height, width = -(-height // 2), -(-width // 2)
            layers.append(2 * 9 * channels * self.model.filters * height * width)
            channels = self.model.filters
            if self.model.downsample == "max_pool":
                height, width = height // 2, width // 2
        total, first = sum(layers), layers[0]
        image = self.steps * self.shots * (9 * total - 5 * first) + self.queries * (
            3 * total - first
        )
        return float(self.tasks * self.ways * image)


_OMNIGLOT = Workload(
    "Omniglot, 5-way 1-shot, 1 query per class, 32 tasks, 1 inner step",
    1,
    1,
    32,
    1,
    0.4,
    (1, 28, 28),
    conv4.Conv4(),
)

WORKLOADS = {
    "W1q1": _OMNIGLOT,
    "W1q15": replace(_OMNIGLOT, what=_OMNIGLOT.what.replace("1 query", "15 queries"), queries=15),
    "W2": Workload(
        "mini-ImageNet, 5-way 5-shot, 15 queries per class, 4 tasks, 5 inner steps",
        5,
        15,
        4,
        5,
        0.01,
        (3, 84, 84),
        conv4.Conv4(32, 4, "max_pool", "flatten"),
    ),
}
