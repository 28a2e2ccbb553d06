"""The objective of an episode: cross-entropy and accuracy, or mean squared error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.config import check_fields

__all__ = ["Objective", "mean_per_task"]


@dataclass(frozen=True)
class Objective:
    """The loss and the score of the outputs of a model.

    Args:
        kind: `classification` (loss: cross-entropy, score: accuracy) or `regression` (loss and
            score: mean squared error).

    Raises:
        ConfigError: `kind` is neither.
    """

    kind: Literal["classification", "regression"]

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def score_name(self) -> str:
        """Name of the score, `accuracy` or `mse`."""
        return "accuracy" if self.kind == "classification" else "mse"

    def is_better(self, a: float, b: float) -> bool:
        """Return whether score a is strictly better than score b."""
        return a > b if self.kind == "classification" else a < b

    def loss(self, outputs: Tensor, y: Tensor, size: Tensor | None = None) -> Tensor:
        """Compute the mean loss over the examples of each task.

        Args:
            outputs: Logits or predictions `(tasks, n, outputs)`.
            y: Labels `(tasks, n)` or targets `(tasks, n, outputs)`.
            size: Number of examples of each task `(tasks,)`, if tasks differ in size.

        Returns:
            `(tasks,)`.
        """
        if self.kind == "classification":
            losses = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none")
            return mean_per_task(losses.view(y.shape), size)
        return mean_per_task((outputs - y).square(), size)

    def score(self, outputs: Tensor, y: Tensor, size: Tensor | None = None) -> Tensor:
        """Compute the accuracy (a fraction) or mean squared error of each task.

        Args:
            outputs: Logits or predictions `(tasks, n, outputs)`.
            y: Labels `(tasks, n)` or targets `(tasks, n, outputs)`.
            size: Number of examples of each task `(tasks,)`, if tasks differ in size.

        Returns:
            `(tasks,)`.
        """
        if self.kind == "classification":
            return mean_per_task((outputs.argmax(-1) == y).to(outputs.dtype), size)
        return self.loss(outputs, y, size)

    def combine_outputs(self, outputs: Sequence[Tensor]) -> Tensor:
        """Combine the outputs of an ensemble.

        Args:
            outputs: Outputs `(tasks, n, outputs)` of each member.

        Returns:
            The logarithm of the mean probabilities, or the mean prediction
            `(tasks, n, outputs)`.
        """
        if len(outputs) == 1:
            return outputs[0]
        if self.kind == "classification":
            logs = torch.stack([member.log_softmax(-1) for member in outputs])
            return logs.logsumexp(0) - math.log(len(outputs))
        return torch.stack(list(outputs)).mean(0)


def mean_per_task(values: Tensor, size: Tensor | None = None) -> Tensor:
    """Average the values of each task.

    Padding contributes exactly 0 to the mean and its gradient, whatever its (finite) value.

    Args:
        values: `(tasks, n, ...)`.
        size: Number of examples of each task `(tasks,)`, if tasks differ in size.

    Returns:
        `(tasks,)`.
    """
    if size is None:
        return values.flatten(1).mean(1)
    values = values.flatten(2).mean(2) if values.dim() > 2 else values
    is_example = torch.arange(values.shape[1], device=values.device) < size[:, None]
    return torch.where(is_example, values, 0).sum(1) / size
