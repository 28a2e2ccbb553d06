"""The linear head that every base learner ends with, and the initialisation of weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from episodic.core.model import HEAD, Params
from episodic.ops.operators import linear


def glorot(generator: torch.Generator, *shape: int) -> Tensor:
    """Glorot's uniform initialisation of a weight `(out, in, *kernel)` (Glorot, Bengio 2010, equation 16)."""
    area = math.prod(shape[2:])
    bound = math.sqrt(6 / (area * (shape[0] + shape[1])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def head(generator: torch.Generator, width: int, outputs: int) -> Params:
    """The initial head; none for 0 outputs."""
    return (
        dict(zip(HEAD, (glorot(generator, outputs, width), torch.zeros(outputs)), strict=True))
        if outputs
        else {}
    )


def classify(theta: Params, features: Tensor) -> Tensor:
    """The head: `(tasks, n, width)` -> `(tasks, n, outputs)`."""
    return linear(features, *(theta[name] for name in HEAD))
