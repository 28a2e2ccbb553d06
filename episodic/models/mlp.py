"""The fully connected base learner; hidden [40, 40] for sine waves is that of the MAML paper, section 5.1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from episodic.config import require
from episodic.models import glorot
from episodic.ops import Params, linear


@dataclass(frozen=True)
class Config:
    """hidden: sizes of the hidden layers, ReLU after each."""

    hidden: tuple[int, ...] = (64,)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(all(size >= 1 for size in self.hidden), "hidden", list(self.hidden), "must be sizes of at least 1")


@dataclass(frozen=True)
class Mlp:
    """Parameters `hidden0.weight (out, in)`, `hidden0.bias`, ..., `head.weight`, `head.bias`."""

    sizes: tuple[int, ...]

    @property
    def layers(self) -> list[str]:
        return [f"hidden{i}" for i in range(len(self.sizes) - 2)] + ["head"]

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        for layer, size, into in zip(self.layers, self.sizes[1:], self.sizes, strict=False):
            theta |= {f"{layer}.weight": glorot(generator, size, into), f"{layer}.bias": torch.zeros(size)}
        return theta

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = x.flatten(2)
        for layer in self.layers[:-1]:
            x = linear(x, theta[f"{layer}.weight"], theta[f"{layer}.bias"]).relu()
        return linear(x, theta["head.weight"], theta["head.bias"])


def build(config: Config, input: tuple[int, ...], outputs: int) -> Mlp:
    return Mlp((math.prod(input), *config.hidden, outputs))
