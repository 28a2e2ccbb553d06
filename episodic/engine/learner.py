"""The base class of algorithms, and the meta-learner: a model, an algorithm and an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.config import ConfigError, Section, require
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.core.objective import Objective
from episodic.data.sampling import LabelScope
from episodic.engine.inner import InnerLoop, expand

__all__ = ["BATCH_NORM", "Algorithm", "MetaLearner", "ModelFunction"]

BATCH_NORM = ("transductive", "inductive")
"""Batch-norm modes: the query set is normalized by its own statistics or by those of the support
set."""

ModelFunction = Callable[..., Tensor]
"""`function(theta, x, reference)`: a model, or its features `(tasks, n, ...)`."""


class Algorithm(Section):
    """Base class of algorithms.

    The base class itself trains the model on query sets without adaptation.
    """

    inner_steps: int = 0
    """Number of inner steps; 0 for an algorithm without an inner loop."""

    regression: ClassVar[bool] = True
    """Whether the algorithm supports regression."""

    any_ways: ClassVar[bool] = False
    """Whether a trained model can predict with another number of ways than in training."""

    labels: ClassVar[LabelScope] = "episode"
    """Labels of training episodes: `episode` numbers the classes of each episode from 0, `split`
    numbers all training classes."""

    scheduled: ClassVar[bool] = False
    """Whether `inner_loop` or `query_loss_weights` depend on the progress of training."""

    backprop_through_inner: ClassVar[bool] = True
    """Whether the meta-gradient backpropagates through the inner steps. Otherwise `outer_gradient`
    computes it from the adapted parameters."""

    uses_query_loss: ClassVar[bool] = True
    """Whether the meta-gradient depends on the query loss. Otherwise query sets are only scored,
    and `outer_gradient` receives an empty `v`."""

    transductive: ClassVar[bool] = False
    """Whether predictions of a query depend on the other queries."""

    estimated_names: ClassVar[frozenset[str]] = frozenset()
    """Names of the meta-parameters that `estimate` computes from training episodes. All others are
    learned by gradient descent."""

    @property
    def masks_padding(self) -> bool:
        """Whether padding and classes that a task does not have do not affect its predictions.

        It is only read for algorithms with `any_ways`. If it is false, tasks of different sizes are
        computed one at a time. The losses of all other algorithms exclude padding already.
        """
        return False

    @property
    def training_steps(self) -> int:
        """Number of inner steps in training."""
        return self.inner_steps

    def count_model_outputs(self, ways: int, classes: int) -> int:
        """Compute the number of outputs of the model.

        Args:
            ways: Classes per training episode.
            classes: Training classes.

        Returns:
            Number of outputs; 0 for a model without a head.
        """
        return ways

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        """Initialize the meta-parameters.

        Args:
            theta: Initial parameters of the model, without a task axis.
            model: The model.
            generator: Source of random numbers.

        Returns:
            theta and all further parameters that the algorithm learns, without a task axis.
        """
        return theta

    def estimate(self, learner: MetaLearner, meta: Params, episodes: Iterable[Episode]) -> Params:
        """Compute the meta-parameters `estimated_names`, such as the mean of all features.

        Training calls it before the first iteration and before every validation.

        Args:
            learner: The meta-learner.
            meta: Meta-parameters without a task axis.
            episodes: Training episodes, always the same ones. They have no padding unless the
                meta-learner handles it.

        Returns:
            The estimated meta-parameters, without a task axis.
        """
        return {}

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        """Build the inner loop of the tasks of an episode.

        Args:
            learner: The meta-learner.
            meta: Meta-parameters without a task axis.
            episode: The tasks.
            progress: Fraction of training that is done.
        """
        return InnerLoop(expand(meta, episode.tasks))

    def query_loss_weights(self, progress: float) -> tuple[float, ...] | None:
        """Compute the weights of the query losses at theta_0, ..., theta_{inner_steps}.

        Args:
            progress: Fraction of training that is done.

        Returns:
            inner_steps + 1 weights in the objective; None to use only the last query loss.
        """
        return None

    def outer_gradient(
        self, inner: InnerLoop, adapted: Params, v: Params, task_weight: float
    ) -> Params:
        """Compute the meta-gradient at theta_0 without backpropagating through the inner steps.

        It is called if `backprop_through_inner` is false.

        Args:
            inner: The inner loop, with theta_0 as `inner.theta`.
            adapted: Parameters after the inner steps `(tasks, *shape)`.
            v: Gradient of the mean query loss over the meta-batch at `adapted`.
            task_weight: Weight of one task in that mean.

        Returns:
            The gradient of each task `(tasks, *shape)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not backpropagate through its inner steps, so it must "
            "define outer_gradient"
        )

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        """Predict the query set with adapted parameters.

        Args:
            learner: The meta-learner.
            theta: Adapted parameters `(tasks, *shape)`.
            episode: The tasks.
            batch_norm: One of `BATCH_NORM`.

        Returns:
            Logits or predictions `(tasks, n, outputs)`.
        """
        return learner.apply_to_query(learner.model, theta, episode, batch_norm)

    def training_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the query set as in `query_outputs`, and compute a term of the training loss.

        Args:
            learner: The meta-learner. Its batch-norm mode applies.
            theta: Adapted parameters `(tasks, *shape)`.
            episode: The tasks.

        Returns:
            Logits or predictions `(tasks, n, outputs)`, and what is added to the query loss of each
            task `(tasks,)`, such as a regularizer; None if nothing is.
        """
        return self.query_outputs(learner, theta, episode, learner.batch_norm), None

    def solve_head(
        self, theta: Params, support: Tensor, episode: Episode
    ) -> tuple[Tensor, Tensor] | None:
        """Solve for the linear head of an algorithm with a closed-form solution.

        Args:
            theta: Adapted parameters `(tasks, *shape)`.
            support: Features of the support set `(tasks, n, width)`.
            episode: The tasks.

        Returns:
            Weight `(tasks, width, ways)` and bias `(tasks, 1, ways)`, such that the outputs are
            features @ weight + bias; None for algorithms without a closed-form head.
        """
        return None

    @property
    def test_variant(self) -> Algorithm:
        """The algorithm as it adapts to new tasks after training."""
        return self


@dataclass(frozen=True)
class MetaLearner:
    """A model, an algorithm that adapts it, and an objective.

    Args:
        model: The model.
        algorithm: The algorithm that adapts the model.
        objective: Classification or regression.
        batch_norm: `transductive` normalizes the query set by its own statistics, `inductive` by
            those of the support set.

    Raises:
        ConfigError: `batch_norm` is neither.
    """

    model: Model
    algorithm: Algorithm
    objective: Objective
    batch_norm: str = "transductive"

    def __post_init__(self) -> None:
        choices = ", ".join(BATCH_NORM)
        require(
            self.batch_norm in BATCH_NORM,
            "batch_norm",
            self.batch_norm,
            f"must be one of {choices}",
        )

    @property
    def test_variant(self) -> MetaLearner:
        """The meta-learner as it adapts to new tasks after training."""
        return replace(self, algorithm=self.algorithm.test_variant)

    @property
    def handles_padding(self) -> bool:
        """Whether tasks of different sizes can be padded and computed together."""
        algorithm = self.algorithm
        return not self.model.norm_names and (not algorithm.any_ways or algorithm.masks_padding)

    def with_episode_noise(self, episode: Episode) -> MetaLearner:
        """Return the meta-learner in training mode, with random numbers seeded by the episode.

        Only models that use random numbers are affected, such as those with DropBlock.
        """
        with_noise = getattr(self.model, "with_noise", None)
        return (
            self
            if with_noise is None or episode.noise is None
            else replace(self, model=with_noise(episode.noise))
        )

    def check_episode(self, episode: Episode) -> None:
        """Check that the model and the algorithm are compatible with an episode.

        Raises:
            ConfigError: The number of outputs differs from the ways of the episode, or tasks differ
                in size and their padding would affect batch norm or the predictions.
        """
        if episode.is_padded and not self.handles_padding:
            raise (
                ConfigError(
                    "model",
                    type(self.model).__name__,
                    "must be a model without batch norm, because tasks differ in size and padding "
                    "would affect the statistics",
                )
                if self.model.norm_names
                else ConfigError(
                    "algorithm",
                    type(self.algorithm).__name__,
                    "must be one that masks padding, because tasks differ in size",
                )
            )
        self.check_ways(episode)

    def check_ways(self, episode: Episode) -> None:
        """Check that a head with one output per class fits the episode.

        Raises:
            ConfigError: The number of outputs differs from the ways of a task.
        """
        if (
            self.objective.kind == "classification"
            and not self.algorithm.any_ways
            and self.algorithm.labels == "episode"
        ):
            if episode.task_ways is not None:
                raise ConfigError(
                    "ways",
                    "drawn per episode",
                    f"must be a fixed number, because the head of {type(self.algorithm).__name__} "
                    "has one output per class",
                )
            ways, outputs = episode.classes, self.model.outputs
            if ways != outputs:
                raise ConfigError(
                    "ways", ways, f"must be {outputs}, since the head has one output per class"
                )

    def init(self, seed: int) -> Params:
        """Initialize the meta-parameters from a seed, on the CPU, without a task axis."""
        theta = self.model.init(random_numbers.generator(seed, "initial weights"))
        # The purpose is part of the key: renaming it changes all results.
        return self.algorithm.init(
            theta, self.model, random_numbers.generator(seed, "initial method")
        )

    def has_learned_parameters(self, meta: Params) -> bool:
        """Return whether gradient descent learns any of the meta-parameters."""
        return bool(meta.keys() - self.algorithm.estimated_names)

    def support_loss(self, theta: Params, episode: Episode) -> Tensor:
        """Compute the support loss of each task `(tasks,)` for theta `(tasks, *shape)`."""
        return self.objective.loss(
            self.model(theta, episode.support_x), episode.support_y, episode.support_size
        )

    def query_outputs(
        self, theta: Params, episode: Episode, batch_norm: str | None = None
    ) -> Tensor:
        """Predict the query set with adapted parameters.

        Args:
            theta: Adapted parameters `(tasks, *shape)`.
            episode: The tasks.
            batch_norm: One of `BATCH_NORM`; None for the mode of the meta-learner.

        Returns:
            Logits or predictions `(tasks, n, outputs)`.
        """
        mode = batch_norm or self.batch_norm
        return self._mask_classes(self.algorithm.query_outputs(self, theta, episode, mode), episode)

    def training_loss(self, theta: Params, episode: Episode) -> tuple[Tensor, Tensor]:
        """Compute the loss that the meta-gradient differentiates.

        Args:
            theta: Adapted parameters `(tasks, *shape)`.
            episode: The tasks.

        Returns:
            The outputs on the query set `(tasks, n, outputs)`, and the query loss of each task
            `(tasks,)` with the term that the algorithm adds to it.
        """
        outputs, term = self.algorithm.training_outputs(self, theta, episode)
        outputs = self._mask_classes(outputs, episode)
        loss = self.objective.loss(outputs, episode.query_y, episode.query_size)
        return outputs, loss if term is None else loss + term

    def _mask_classes(self, outputs: Tensor, episode: Episode) -> Tensor:
        return episode.mask_classes(outputs) if self.algorithm.any_ways else outputs

    def apply_to_query(
        self, function: ModelFunction, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        """Apply a function such as the model to the query set `(tasks, n, ...)`.

        Args:
            function: The function to apply.
            theta: Parameters `(tasks, *shape)`.
            episode: The tasks.
            batch_norm: One of `BATCH_NORM`.
        """
        if batch_norm == "transductive":
            return function(theta, episode.query_x)
        return self.apply_to_both(function, theta, episode, batch_norm)[1]

    def apply_to_both(
        self, function: ModelFunction, theta: Params, episode: Episode, batch_norm: str
    ) -> tuple[Tensor, Tensor]:
        """Apply a function such as the model to the support set and to the query set.

        Args:
            function: The function to apply.
            theta: Parameters `(tasks, *shape)`.
            episode: The tasks.
            batch_norm: One of `BATCH_NORM`.

        Returns:
            `(tasks, n, ...)` for each set.
        """
        if batch_norm == "transductive":
            return function(theta, episode.support_x), function(theta, episode.query_x)
        shots = episode.support_x.shape[1]
        both = function(theta, torch.cat([episode.support_x, episode.query_x], 1), reference=shots)
        return both[:, :shots], both[:, shots:]
