"""The fully connected base learner; hidden [40, 40] for sine waves is that of the MAML paper, section 5.1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from episodic.core.config import require
from episodic.core.model import Params
from episodic.ops import linear
from episodic.ops.head import classify, glorot, head


@dataclass(frozen=True)
class Config:
    """hidden: sizes of the hidden layers, ReLU after each."""

    hidden: tuple[int, ...] = (64,)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(
            all(size >= 1 for size in self.hidden),
            "hidden",
            list(self.hidden),
            "must be sizes of at least 1",
        )


@dataclass(frozen=True)
class Mlp:
    """Parameters `hidden0.weight (out, in)`, `hidden0.bias`, ..., `head.weight`, `head.bias`; sizes: of the input and the hidden layers."""

    sizes: tuple[int, ...]
    outputs: int

    @property
    def norms(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        return self.sizes[-1]

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        for i, (into, size) in enumerate(pairwise(self.sizes)):
            theta |= {
                f"hidden{i}.weight": glorot(generator, size, into),
                f"hidden{i}.bias": torch.zeros(size),
            }
        return theta | head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = x.flatten(2)
        for i in range(len(self.sizes) - 1):
            x = linear(x, theta[f"hidden{i}.weight"], theta[f"hidden{i}.bias"]).relu()
        return x

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return classify(theta, self.features(theta, x, reference))


def build(config: Config, input: tuple[int, ...], outputs: int) -> Mlp:
    return Mlp((math.prod(input), *config.hidden), outputs)
