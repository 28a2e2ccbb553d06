"""Numbers as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.preprocessing.base import InputError, listed


@dataclass(frozen=True)
class Numbers:
    input: tuple[int, ...]

    what = "row of numbers"

    def __call__(self, x: Any) -> Tensor:
        return torch.from_numpy(
            array(x if isinstance(x, Tensor) else listed(x, self.what), self.input).astype(
                np.float32
            )
        )

    def in_folder(self, folder: Path) -> list[Any]:
        raise InputError(
            "a model of numbers takes no files: use it from Python (docs/guide/using-a-model.md)"
        )

    in_file = in_folder


def array(x: Any, input: tuple[int, ...]) -> np.ndarray:
    """x as an array `(n, *input)` of finite numbers; InputError where it is none."""
    try:
        found = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
    except ValueError as error:
        raise InputError(
            f"x is no array of shape (n, {', '.join(map(str, input))}): its rows differ in shape"
        ) from error
    if found.dtype.kind not in "buif" or found.shape[1:] != input:
        shape = ", ".join(map(str, input))
        raise InputError(
            f"x has shape {found.shape} and type {found.dtype}: the model wants numbers of shape (n, {shape})"
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise InputError("x holds numbers that are not finite")
    return found


def build(input: tuple[int, ...]) -> Numbers:
    return Numbers(input)
