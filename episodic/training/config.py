"""Settings of training and evaluation: the sections `train` and `evaluate` of params.yaml."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from episodic.core.config import Fraction, NonNegativeFloat, PositiveFloat, Section, Seed, require
from episodic.core.episode_size import EpisodeSize, check_sizes
from episodic.data.augmentation import SupportAugmentation, TrainingAugmentation
from episodic.engine import plan as plans

__all__ = ["MAX_INNER_STEPS", "EvaluationConfig", "TrainingConfig"]

MAX_INNER_STEPS = 1000
"""Maximum number of inner steps at test time."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """Settings of meta-training, the section `train` of params.yaml.

    Args:
        seed: Seed of the training episodes and of the initial weights.
        iterations: Number of outer steps.
        meta_batch: Tasks per outer step.
        queries: Query examples per class and training episode.
        ways: Classes per training episode, or bounds between which the number is drawn. None: as in
            the test episodes.
        shots: Support examples per class and training episode, or bounds. None: as in the test
            episodes.
        unbalanced: Whether the classes of a training episode differ in shots, within the bounds.
        within_group: Whether all classes of an episode come from one group, such as an alphabet.
        vary_shots: Whether support sets of predefined tasks have a random size from 1 to `shots`.
        classes: Number of training classes that are used. None: all.
        groups: Names of the groups whose classes are used. None: all.
        hard_episode_fraction: Fraction of episodes with classes that are similar to each other.
        augmentation: Random transformations of the images of training episodes.
        meta_lr: Outer learning rate at the first iteration.
        meta_lr_end: Outer learning rate at the end of the schedule.
        schedule: Schedule of the outer learning rate from `meta_lr` to `meta_lr_end`.
        optimizer: The outer optimizer.
        weight_decay: Decoupled weight decay: each outer step subtracts this fraction of the weights
            of the model, times the outer learning rate. Biases, batch norm and further parameters
            of the algorithm are exempt.
        gradient_clip: Bound on each element of the meta-gradient. None: no clipping.
        batch_norm: `transductive` normalizes the query set by its own statistics, `inductive` by
            those of the support set.
        validate_every: Iterations between validations.
        patience: Validations without improvement after which training stops. None: never.
        checkpoint_every: Iterations between checkpoints.
        ensemble: Number of best checkpoints that are kept. Their predictions are averaged.
        calibration: How probabilities are calibrated on the validation episodes, as for
            `fit_calibration`. None: not at all.
        plan: How meta-gradients are computed.

    Raises:
        ConfigError: A value is out of bounds, or values are incompatible.
    """

    seed: Seed = 0
    iterations: Annotated[int, Ge(1), Le(10_000_000)] = 450
    meta_batch: Annotated[int, Ge(1), Le(10_000)] = 32
    queries: Annotated[int, Ge(1), Le(10_000)] = 5
    ways: EpisodeSize | None = None
    shots: EpisodeSize | None = None
    unbalanced: bool = False
    within_group: bool = False
    vary_shots: bool = False
    classes: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    groups: Annotated[tuple[str, ...], MinLen(1)] | None = None
    hard_episode_fraction: Fraction = 0.0
    augmentation: TrainingAugmentation = field(default_factory=TrainingAugmentation)
    meta_lr: PositiveFloat = 0.002
    meta_lr_end: NonNegativeFloat = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: Annotated[float, Ge(0), Le(1000)] = 0.0
    gradient_clip: Annotated[float, Gt(0), Le(1e12)] | None = None
    batch_norm: Literal["transductive", "inductive"] = "transductive"
    validate_every: Annotated[int, Ge(1), Le(10_000_000)] = 90
    patience: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    checkpoint_every: Annotated[int, Ge(1), Le(10_000_000)] = 50
    ensemble: Annotated[int, Ge(1), Le(1000)] = 1
    calibration: Literal["temperature", "vector"] | None = "temperature"
    plan: plans.PlanConfig = field(default_factory=plans.PlanConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self.ways, self.shots, self.unbalanced)
        require(
            not (self.hard_episode_fraction and self.within_group),
            "hard_episode_fraction",
            self.hard_episode_fraction,
            "must be 0 if within_group is set",
        )
        validations = math.ceil(self.iterations / self.validate_every)
        require(
            self.ensemble <= validations,
            "ensemble",
            self.ensemble,
            f"must be at most {validations}, the number of validations in {self.iterations}"
            f" iterations with one every {self.validate_every}",
        )

    def rate(self, iteration: int) -> float:
        """Compute the outer learning rate of an iteration, counted from 0."""
        progress = iteration / self.iterations
        factor = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        }[self.schedule]
        return (
            self.meta_lr_end + (self.meta_lr - self.meta_lr_end) * factor
            if factor < 1
            else self.meta_lr
        )


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """Settings of the evaluation on test episodes, the section `evaluate` of params.yaml.

    Args:
        steps: Inner steps of the headline score. None: the number that the algorithm takes at test
            time. Ignored by algorithms without an inner loop.
        chunk: Episodes computed at once. None: chosen from the workload. If episodes differ in size
            and padding would affect their scores, they are computed one at a time instead.
        compiled: Whether to use the compiled kernels of the plan `compiled` on a CPU.
        augmentation: Augmented copies of the support examples of test episodes.

    Raises:
        ConfigError: A value is out of bounds.
    """

    steps: Annotated[int, Ge(0), Le(MAX_INNER_STEPS)] | None = None
    chunk: Annotated[int, Ge(1), Le(1_000_000)] | None = None
    compiled: bool = False
    augmentation: SupportAugmentation = field(default_factory=SupportAugmentation)
