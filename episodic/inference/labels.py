"""Validation and conversion of labels and targets."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.core.errors import UserError

__all__ = [
    "AdaptError",
    "expand_labels",
    "index_labels",
    "label_array",
    "read_labels",
    "read_targets",
    "unique_labels",
]


class AdaptError(UserError, ValueError):
    """The model cannot adapt to the support set."""


def read_labels(labels: Any, examples: int) -> list[Hashable]:
    """Convert labels to a list of Python values.

    Args:
        labels: A sequence, array or tensor of labels.
        examples: Number of examples.

    Raises:
        AdaptError: The numbers of labels and examples differ, or a label is not hashable.
    """
    values = labels.tolist() if isinstance(labels, (np.ndarray, Tensor)) else list(labels)
    if len(values) != examples:
        raise AdaptError(
            f"there are {examples} examples and {len(values)} labels: pass one label per example"
        )
    for label in values:
        if not isinstance(label, Hashable):
            raise AdaptError(
                f"the label {label!r} is a {type(label).__name__}: a label must be hashable, such"
                " as a string or a number"
            )
    return [label.item() if isinstance(label, np.generic) else label for label in values]


def expand_labels(labels: Any, examples: int) -> list[Hashable]:
    """Like `read_labels`, but a single label is that of all examples."""
    if isinstance(labels, np.generic) or (
        isinstance(labels, Hashable) and not hasattr(labels, "__array__")
    ):
        labels = [labels] * examples
    return read_labels(labels, examples)


def unique_labels(labels: Sequence[Hashable]) -> list[Hashable]:
    """Return the distinct labels, sorted if they are comparable, else in order of appearance."""
    classes = list(dict.fromkeys(labels))
    try:
        return sorted(classes)  # type: ignore[type-var]
    except TypeError:
        return classes


def index_labels(labels: Sequence[Hashable]) -> tuple[list[Hashable], Tensor]:
    """Return the classes of a support set, and the index of the class of each example, `(n,)`.

    Raises:
        AdaptError: All examples are of one class.
    """
    classes = unique_labels(labels)
    if len(classes) < 2:
        raise AdaptError(
            f"all {len(labels)} examples are of the class {classes[0]!r}: add examples of at"
            " least one other class"
        )
    return classes, torch.tensor([classes.index(label) for label in labels])


def read_targets(targets: Any, examples: int) -> Tensor:
    """Convert regression targets to float32 `(n, 1)`.

    Raises:
        AdaptError: The targets are not `examples` finite numbers.
    """
    values = np.asarray(targets.detach().cpu() if isinstance(targets, Tensor) else targets)
    if (
        values.dtype.kind not in "buif"
        or values.shape not in ((examples,), (examples, 1))
        or not np.isfinite(values).all()
    ):
        raise AdaptError(f"support_y must contain {examples} finite numbers, one per example")
    return torch.from_numpy(values.reshape(examples, 1).astype(np.float32))


def label_array(classes: Sequence[Hashable]) -> np.ndarray:
    """Convert labels to an array of strings or numbers if they have one type, else of objects."""
    types = {type(label) for label in classes}
    if len(types) == 1 and types <= {str, int, float, bool}:
        return np.array(list(classes))
    array = np.empty(len(classes), object)
    array[:] = list(classes)
    return array
