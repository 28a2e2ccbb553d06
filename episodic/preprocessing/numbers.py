"""Vectors of numbers, which are used as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.preprocessing.base import InputError, require_sequence

__all__ = [
    "VectorPreprocessor",
    "build",
    "to_array",
]


@dataclass(frozen=True)
class VectorPreprocessor:
    """Preprocessor of numbers.

    Args:
        input: Shape of one example.
    """

    input: tuple[int, ...]

    example_name = "row of numbers"

    def __call__(self, x: Any) -> Tensor:
        """Return float32 `(n, *input)` from a list or an array of that shape."""
        rows = x if isinstance(x, Tensor) else require_sequence(x, self.example_name)
        return torch.from_numpy(to_array(rows, self.input).astype(np.float32))

    def examples_in_folder(self, folder: Path) -> list[Any]:
        """Raise InputError: examples of this kind are not read from files."""
        raise InputError(
            "a model of numbers reads no files: use it from Python (docs/guide/using-a-model.md)"
        )

    examples_in_file = examples_in_folder


def to_array(x: Any, input: tuple[int, ...]) -> NDArray[Any]:
    """Convert `x` to an array `(n, *input)` of finite numbers.

    Raises:
        InputError: The shape or the type differs, or some numbers are not finite.
    """
    shape = f"(n, {', '.join(map(str, input))})"
    try:
        array = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
    except ValueError as error:
        raise InputError(
            f"x must be an array of shape {shape}, but its rows differ in shape"
        ) from error
    if array.dtype.kind not in "buif" or array.shape[1:] != input:
        raise InputError(
            f"x has shape {array.shape} and type {array.dtype}: the model takes numbers of shape "
            f"{shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("x has numbers that are not finite: replace them")
    return array


def build(input: tuple[int, ...]) -> VectorPreprocessor:
    """Make the preprocessor of `kind: numbers`."""
    return VectorPreprocessor(input)
