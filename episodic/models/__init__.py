"""Base learners, one module each: plain functions of (parameters, x) over `episodic.ops`. A module of the registry has `Config`,
a frozen dataclass that is its section in params.yaml, and `build(config, input, outputs) -> Model`."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from episodic.ops import Params, linear
from episodic.registry import Registry

registry = Registry(
    "model",
    {
        "bag": "episodic.models.bag",
        "conv4": "episodic.models.conv4",
        "embeddings": "episodic.models.embeddings",
        "mlp": "episodic.models.mlp",
        "module": "episodic.models.module",
        "resnet12": "episodic.models.resnet12",
        "textcnn": "episodic.models.textcnn",
    },
)


HEAD = ("head.weight", "head.bias")
"""Every model's last layer, a linear map from features to outputs; the rest is its body."""


class Model(Protocol):
    @property
    def width(self) -> int:
        """Length of a feature vector."""

    @property
    def outputs(self) -> int:
        """Length of an answer; 0: a model without a head."""

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of batch norm's scales and shifts."""

    def init(self, generator: torch.Generator) -> Params:
        """Initial parameters without a task axis, float32 on the CPU."""

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """What the head sees `(tasks, n, width)`, for x `(tasks, n, *input)`; `reference`: see `ops.norm_relu`."""

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """Outputs `(tasks, n, outputs)`: `classify` of the features."""


def build(name: str, config: Any, input: tuple[int, ...], outputs: int) -> Model:
    """input: shape of one example; outputs: classes, or dimensions of the target; 0: no head."""
    return registry[name].build(config, tuple(input), outputs)


def glorot(generator: torch.Generator, *shape: int) -> Tensor:
    """Glorot's uniform initialisation of a weight `(out, in, *kernel)` (Glorot, Bengio 2010, equation 16)."""
    area = math.prod(shape[2:])
    bound = math.sqrt(6 / (area * (shape[0] + shape[1])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def head(generator: torch.Generator, width: int, outputs: int) -> Params:
    """The initial head; none for 0 outputs."""
    return dict(zip(HEAD, (glorot(generator, outputs, width), torch.zeros(outputs)), strict=True)) if outputs else {}


def classify(theta: Params, features: Tensor) -> Tensor:
    """The head: `(tasks, n, width)` -> `(tasks, n, outputs)`."""
    return linear(features, *(theta[name] for name in HEAD))
