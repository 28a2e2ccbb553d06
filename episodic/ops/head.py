"""The linear head of models, and the initialization of weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from episodic.core.model import HEAD, Params
from episodic.ops.operators import linear

__all__ = ["apply_head", "glorot_uniform", "init_head"]


def glorot_uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw a weight of shape `(out, in, *kernel)` from Glorot's uniform distribution.

    Source: Glorot, Bengio: Understanding the difficulty of training deep feedforward neural
    networks, 2010, equation 16.
    """
    area = math.prod(shape[2:])
    bound = math.sqrt(6 / (area * (shape[0] + shape[1])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def init_head(generator: torch.Generator, width: int, outputs: int) -> Params:
    """Initialize the head, without a task axis.

    Args:
        generator: Source of random numbers.
        width: Dimension of the features.
        outputs: Number of outputs; 0 for no head.
    """
    return (
        dict(
            zip(
                HEAD, (glorot_uniform(generator, outputs, width), torch.zeros(outputs)), strict=True
            )
        )
        if outputs
        else {}
    )


def apply_head(theta: Params, features: Tensor) -> Tensor:
    """Apply the head to features `(tasks, n, width)` -> `(tasks, n, outputs)`."""
    return linear(features, *(theta[name] for name in HEAD))
