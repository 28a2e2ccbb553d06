"""The interface of models: functions of parameters and examples with a leading task axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from episodic.core.config import Section, Setting

__all__ = ["HEAD", "ExampleKind", "Model", "ModelSpec", "Params"]

Params = dict[str, Tensor]
"""Named tensors: `(tasks, *shape)` with a task axis, `(*shape)` without one."""

HEAD = ("head.weight", "head.bias")
"""Parameters of the last layer of every model, a linear map from features to outputs. All other
parameters form the body."""

ExampleKind = Literal["image", "vector", "text_features", "tokens", "categorical"]
"""Kinds of examples: images `(C, H, W)`; vectors of measurements; n-gram or encoder features of a
text `(size,)`; int64 token sequences `(length,)`; int64 categorical features
`(fields, features)`."""


class Model(Protocol):
    """A model: a function of parameters and examples."""

    @property
    def width(self) -> int:
        """Dimension of the features."""

    @property
    def outputs(self) -> int:
        """Number of outputs; 0 for a model without a head."""

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Names of the scales and shifts of batch norm layers."""

    def init(self, generator: torch.Generator) -> Params:
        """Initialize the parameters: float32, on the CPU, without a task axis.

        Args:
            generator: Source of random numbers.
        """

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """Compute features, the input of the head.

        Args:
            theta: Parameters `(tasks, *shape)`.
            x: Examples `(tasks, n, *input)`.
            reference: Number of leading examples whose statistics batch norm uses; None for all.

        Returns:
            `(tasks, n, width)`.
        """

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """Compute outputs `(tasks, n, outputs)`: the head applied to the features."""


@dataclass(frozen=True)
class ModelSpec(Section):
    """Base class of model specifications: the settings of a model, with a method to build it."""

    accepts: ClassVar[frozenset[ExampleKind]]
    """Kinds of examples that the model accepts."""

    @property
    def vocabulary(self) -> Setting | None:
        """The setting for the number of distinct tokens or features; None if there is none."""
        return None

    def build(self, input: tuple[int, ...], outputs: int) -> Model:
        """Build the model.

        Args:
            input: Shape of one example.
            outputs: Number of outputs; 0 for a model without a head.

        Raises:
            ConfigError: The model cannot process examples of this shape.
        """
        raise NotImplementedError
