"""The interface of a base learner: a plain function of parameters and inputs with a leading task axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from episodic.core.config import Section

Params = dict[str, Tensor]
"""Named tensors: `(tasks, *shape)` with a task axis, `(*shape)` without one."""

HEAD = ("head.weight", "head.bias")
"""Every model's last layer, a linear map from features to outputs; the rest is its body."""


ExampleKind = Literal["image", "vector", "text_features", "tokens", "categorical"]
"""Kinds of examples: images `(C, H, W)`; vectors of measurements; n-gram or encoder features of a
text `(size,)`; int64 token sequences `(length,)`; int64 categorical features `(sides, features)`."""


class Model(Protocol):
    @property
    def width(self) -> int:
        """Length of a feature vector."""

    @property
    def outputs(self) -> int:
        """Length of an answer; 0: a model without a head."""

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Names of batch norm's scales and shifts."""

    def init(self, generator: torch.Generator) -> Params:
        """Initial parameters without a task axis, float32 on the CPU."""

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """What the head sees `(tasks, n, width)`, for x `(tasks, n, *input)`; `reference`: see `ops.norm_relu`."""

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """Outputs `(tasks, n, outputs)`: `classify` of the features."""


@dataclass(frozen=True)
class ModelSpec(Section):
    """Base class of model specifications: the settings of a model, from which `build` makes it."""

    accepts: ClassVar[frozenset[ExampleKind]]
    """The kinds of examples that the model takes."""

    def build(self, input: tuple[int, ...], outputs: int) -> Model:
        """Make the model.

        Args:
            input: Shape of one example.
            outputs: Length of an answer; 0 for a model without a head.

        Raises:
            ConfigError: The model does not fit examples of that shape.
        """
        raise NotImplementedError
