"""The state of meta-training, with saving and restoring."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from episodic.core import checkpoint
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.engine.learner import MetaLearner
from episodic.training.config import TrainingConfig

__all__ = ["History", "TrainingState"]

TENSORS = ("theta", "best", "exp_avg", "exp_avg_sq", "step")
COUNTERS = ("iteration", "best_iterations", "best_scores", "stale")


@dataclass
class History:
    """The tables of training.

    Args:
        train: One row every ten iterations and at each checkpoint and validation: the means of
            loss, score and gradient norm since the previous row, and the outer learning rate.
        validation: One row per validation: loss, score and its 95 % confidence interval, and
            whether this checkpoint is the best so far.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class TrainingState:
    """The complete state of training between two iterations.

    Args:
        theta: The meta-parameters, without a task axis.
        best: The best checkpoints by validation, `(ensemble, *shape)`, the best first. Only the
            first `len(best_scores)` are valid.
        exp_avg: Adam's first moments.
        exp_avg_sq: Adam's second moments.
        step: Adam's step counts.
        capacity: Maximum number of best checkpoints, the ensemble.
        iteration: Iterations done.
        best_iterations: The iteration of each of the best checkpoints.
        best_scores: The validation score of each of the best checkpoints.
        stale: Validations since the last improvement.
        history: The tables of training so far.
    """

    theta: Params
    best: Params
    exp_avg: Params
    exp_avg_sq: Params
    step: Params
    capacity: int = 1
    iteration: int = 0
    best_iterations: list[int] = field(default_factory=list)
    best_scores: list[float] = field(default_factory=list)
    stale: int = 0
    history: History = field(default_factory=History)

    @classmethod
    def initial(
        cls,
        learner: MetaLearner,
        config: TrainingConfig,
        device: torch.device,
        values: Params | None = None,
    ) -> TrainingState:
        """Create the state before the first iteration, determined by `config.seed`.

        Args:
            learner: The meta-learner.
            config: The settings.
            device: Device of the state.
            values: Values of some meta-parameters, instead of those of `learner.init`.
        """
        drawn = learner.init(config.seed) | (values or {})
        theta = {name: p.to(device, copy=True) for name, p in drawn.items()}

        def zeros() -> Params:
            return {name: torch.zeros_like(p) for name, p in theta.items()}

        # Within a CUDA graph, Adam's step counts must be on the GPU.
        counter_device = device if device.type == "cuda" else "cpu"
        steps = {name: torch.zeros((), device=counter_device) for name in theta}
        best = {name: p.expand(config.ensemble, *p.shape).clone() for name, p in theta.items()}
        return cls(theta, best, zeros(), zeros(), steps, config.ensemble)

    @classmethod
    def restore(
        cls, path: Path, learner: MetaLearner, config: TrainingConfig, device: torch.device
    ) -> TrainingState:
        """Read a state written by `save`.

        Raises:
            CheckpointError: The file is not a valid checkpoint of this model.
        """
        tensors, description = checkpoint.load(path)
        state = cls.initial(learner, config, device)
        for kind in TENSORS:
            expected: Params = getattr(state, kind)
            saved = {
                name.removeprefix(f"{kind}/"): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{kind}/")
            }
            for name, tensor in checkpoint.match_tensors(saved, expected, path).items():
                expected[name].copy_(tensor)
        state.set_counters(description)
        return state

    def save(self, path: Path) -> None:
        """Write the state atomically. Identical states produce identical bytes."""
        tensors = {
            f"{kind}/{name}": tensor
            for kind in TENSORS
            for name, tensor in getattr(self, kind).items()
        }
        checkpoint.save(path, tensors, self.counters())

    def tensors(self) -> list[Tensor]:
        """List all tensors of the state, in a fixed order."""
        return [tensor for kind in TENSORS for tensor in getattr(self, kind).values()]

    def counters(self) -> dict[str, Any]:
        """Return everything in the state that is not a tensor, as JSON-serializable values."""
        return {key: getattr(self, key) for key in COUNTERS} | {"history": vars(self.history)}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Set the values returned by `counters`."""
        for key in COUNTERS:
            setattr(self, key, counters[key])
        self.history = History(**counters["history"])

    def insert_checkpoint(self, score: float, objective: Objective) -> int:
        """Insert theta into the best checkpoints, before those with an equal score.

        Returns:
            The rank of theta, 0 for the best. It is only kept if its rank is below the capacity.
        """
        size = self.capacity
        rank = sum(objective.is_better(other, score) for other in self.best_scores)
        if rank < size:
            for name, checkpoints in self.best.items():
                checkpoints[rank + 1 :] = checkpoints[rank:-1].clone()
                checkpoints[rank] = self.theta[name]
            self.best_scores.insert(rank, score)
            self.best_iterations.insert(rank, self.iteration)
            del self.best_scores[size:], self.best_iterations[size:]
        return rank
