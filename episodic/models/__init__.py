"""Base learners, one module each: plain functions of (parameters, x) over `episodic.ops`. A module of the registry has `Config`,
a frozen dataclass that is its section in params.yaml, and `build(config, input, outputs) -> Model`."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from episodic.ops import Params
from episodic.registry import Registry

registry = Registry(
    "model",
    {
        "conv4": "episodic.models.conv4",
        "mlp": "episodic.models.mlp",
    },
)


class Model(Protocol):
    def init(self, generator: torch.Generator) -> Params:
        """Initial parameters without a task axis, float32 on the CPU."""

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """Outputs `(tasks, n, outputs)` for x `(tasks, n, *input)`; `reference`: see `ops.norm_relu`."""


def build(name: str, config: Any, input: tuple[int, ...], outputs: int) -> Model:
    """input: shape of one example; outputs: classes (ways), or dimensions of the target."""
    return registry[name].build(config, tuple(input), outputs)


def glorot(generator: torch.Generator, *shape: int) -> Tensor:
    """Glorot's uniform initialisation of a weight `(out, in, *kernel)` (Glorot, Bengio 2010, equation 16)."""
    area = math.prod(shape[2:])
    bound = math.sqrt(6 / (area * (shape[0] + shape[1])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
