"""A multilayer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops import linear
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["MLP"]


@dataclass(frozen=True)
class MLP(ModelSpec):
    """A fully connected model.

    Args:
        hidden: Sizes of the hidden layers, with a ReLU after each.

    Source: Finn et al.: MAML, 2017, section 5.1 (40, 40 for sine waves).
    """

    hidden: tuple[Annotated[int, Ge(1), Le(65_536)], ...] = (64,)

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"image", "vector", "text_features"})

    def build(self, input: tuple[int, ...], outputs: int) -> MLPModel:
        return MLPModel((math.prod(input), *self.hidden), outputs)


@dataclass(frozen=True)
class MLPModel:
    """The model of an `MLP`.

    Parameters are `hidden0.weight (out, in)`, `hidden0.bias`, ..., `head.weight` and `head.bias`.

    Args:
        sizes: Sizes of the input and of the hidden layers.
        outputs: Number of outputs; 0 for no head.
    """

    sizes: tuple[int, ...]
    outputs: int

    @property
    def norm_names(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        return self.sizes[-1]

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        for i, (inputs, size) in enumerate(pairwise(self.sizes)):
            theta |= {
                f"hidden{i}.weight": glorot_uniform(generator, size, inputs),
                f"hidden{i}.bias": torch.zeros(size),
            }
        return theta | init_head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = x.flatten(2)
        for i in range(len(self.sizes) - 1):
            x = linear(x, theta[f"hidden{i}.weight"], theta[f"hidden{i}.bias"]).relu()
        return x

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))
