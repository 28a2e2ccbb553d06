"""The interface of a base learner: a plain function of parameters and inputs with a leading task axis."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Named tensors: `(tasks, *shape)` with a task axis, `(*shape)` without one."""

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
