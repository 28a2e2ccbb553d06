"""What an episode is scored by: cross-entropy and accuracy, or mean squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.config import ConfigError


@dataclass(frozen=True)
class Objective:
    """kind: `classification` (score: accuracy) or `regression` (score: mean squared error)."""

    kind: str

    def __post_init__(self):
        if self.kind not in ("classification", "regression"):
            raise ConfigError("kind", self.kind, "must be classification or regression")

    @property
    def score_name(self) -> str:
        return "accuracy" if self.kind == "classification" else "mse"

    def is_better(self, a: float, b: float) -> bool:
        """Whether score a is strictly better than score b."""
        return a > b if self.kind == "classification" else a < b

    def loss(self, outputs: Tensor, y: Tensor, size: Tensor | None = None) -> Tensor:
        """The mean loss over a task's examples: outputs `(tasks, n, out)`, y `(tasks, n)` or `(tasks, n, out)` -> `(tasks,)`; size: as in
        `Episode`, how many of the n count."""
        if self.kind == "classification":
            return average(
                F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view(y.shape),
                size,
            )
        return average((outputs - y).square(), size)

    def combine_outputs(self, outputs: list[Tensor]) -> Tensor:
        """What several models answer together, each `(tasks, n, out)`: the mean of their probabilities (its logarithm) or targets."""
        if len(outputs) == 1:
            return outputs[0]
        if self.kind == "classification":
            return torch.stack([one.log_softmax(-1) for one in outputs]).logsumexp(0) - math.log(
                len(outputs)
            )
        return torch.stack(outputs).mean(0)

    def score(self, outputs: Tensor, y: Tensor, size: Tensor | None = None) -> Tensor:
        """Accuracy (a fraction) or mean squared error of each task -> `(tasks,)`."""
        if self.kind == "classification":
            return average((outputs.argmax(-1) == y).to(outputs.dtype), size)
        return self.loss(outputs, y, size)


def average(values: Tensor, size: Tensor | None = None) -> Tensor:
    """The mean of each task's values, of the first `size` of its examples: `(tasks, n, ...)`, size `(tasks,)` -> `(tasks,)`.

    What fills a task up adds exactly 0 to it and to its gradient, whatever (finite) value it has.
    """
    if size is None:
        return values.flatten(1).mean(1)
    values = values.flatten(2).mean(2) if values.dim() > 2 else values
    counts = torch.arange(values.shape[1], device=values.device) < size[:, None]
    return torch.where(counts, values, 0).sum(1) / size
