"""Settings of training and evaluation: the sections `train` and `evaluate` of params.yaml."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from episodic.core.config import require
from episodic.engine import plan as plans

__all__ = ["MAX_INNER_STEPS", "EvaluationConfig", "TrainingConfig"]

MAX_INNER_STEPS = 1000
"""The largest number of inner steps at test time."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of meta-training, the section `train` of params.yaml.

    Args:
        seed: Seed of the training episodes and of the initial weights.
        iterations: Number of outer steps.
        meta_batch: Tasks per outer step.
        queries: Query examples per class and training episode.
        ways: Classes per training episode. None: as in the test episodes.
        shots: Support examples per class and training episode. None: as in the test episodes.
        within_group: Whether all classes of an episode are of one group, such as an alphabet.
        vary_shots: Whether the support set of a given task has 1 to `shots` examples.
        classes: How many of the training classes are used. None: all.
        groups: Names of the groups whose classes are used. None: all.
        hard: Fraction of the episodes whose classes are similar to each other.
        meta_lr: Outer learning rate at the first iteration.
        meta_lr_end: Outer learning rate at the end of the schedule.
        schedule: How the outer learning rate goes from `meta_lr` to `meta_lr_end`.
        optimizer: The outer optimizer.
        gradient_clip: Bound of each element of the meta-gradient. None: no clipping.
        batch_norm: `transductive` normalizes the query set by its own statistics, `inductive` by
            those of the support set.
        validate_every: Iterations between validations.
        patience: Validations without improvement after which training stops. None: never.
        checkpoint_every: Iterations between checkpoints.
        ensemble: How many of the best checkpoints are kept. Their predictions are averaged.
        plan: How meta-gradients are computed.

    Raises:
        ConfigError: A value is out of bounds.
    """

    seed: int = 0
    iterations: int = 450
    meta_batch: int = 32
    queries: int = 5
    ways: int | None = None
    shots: int | None = None
    within_group: bool = False
    vary_shots: bool = False
    classes: int | None = None
    groups: tuple[str, ...] | None = None
    hard: float = 0.0
    meta_lr: float = 0.002
    meta_lr_end: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    optimizer: Literal["adam", "sgd"] = "adam"
    gradient_clip: float | None = None
    batch_norm: Literal["transductive", "inductive"] = "transductive"
    validate_every: int = 90
    patience: int | None = None
    checkpoint_every: int = 50
    ensemble: int = 1
    plan: plans.Config = field(default_factory=plans.Config)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for key in (
            "iterations",
            "meta_batch",
            "queries",
            "validate_every",
            "checkpoint_every",
            "ensemble",
        ):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("ways", "shots", "classes", "patience"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be null or at least 1")
        require(
            0 < self.meta_lr < math.inf, "meta_lr", self.meta_lr, "must be a number greater than 0"
        )
        require(
            0 <= self.meta_lr_end < math.inf,
            "meta_lr_end",
            self.meta_lr_end,
            "must be a number, 0 or greater",
        )
        require(
            self.groups is None or len(self.groups) > 0,
            "groups",
            self.groups,
            "must be null or a list of names",
        )
        require(0 <= self.hard <= 1, "hard", self.hard, "must be between 0 and 1")
        require(
            not (self.hard and self.within_group),
            "hard",
            self.hard,
            "must be 0 with within_group, whose classes are of one group",
        )
        clip = self.gradient_clip
        require(
            clip is None or 0 < clip < math.inf,
            "gradient_clip",
            clip,
            "must be null or a number greater than 0",
        )
        require(self.seed >= 0, "seed", self.seed, "must be at least 0")
        validations = math.ceil(self.iterations / self.validate_every)
        require(
            self.ensemble <= validations,
            "ensemble",
            self.ensemble,
            f"must be at most {validations}, the number of validations in {self.iterations}"
            f" iterations with one every {self.validate_every}",
        )

    def rate(self, iteration: int) -> float:
        """The outer learning rate of an iteration, counted from 0."""
        done = iteration / self.iterations
        left = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }[self.schedule]
        return (
            self.meta_lr_end + (self.meta_lr - self.meta_lr_end) * left
            if left < 1
            else self.meta_lr
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of the evaluation on test episodes, the section `evaluate` of params.yaml.

    Args:
        steps: Inner steps of the headline score. None: the number that the algorithm takes at test
            time. An algorithm without an inner loop takes none.
        chunk: Episodes computed at once. None: chosen from the workload.
        compiled: Whether a CPU uses the compiled kernels of the plan `compiled`.

    Raises:
        ConfigError: A value is out of bounds.
    """

    steps: int | None = None
    chunk: int | None = None
    compiled: bool = False

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        require(
            self.steps is None or 0 <= self.steps <= MAX_INNER_STEPS,
            "steps",
            self.steps,
            f"must be null or between 0 and {MAX_INNER_STEPS}",
        )
        require(
            self.chunk is None or self.chunk >= 1, "chunk", self.chunk, "must be null or at least 1"
        )
