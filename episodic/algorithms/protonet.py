"""Prototypical networks: the nearest class prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["ProtoNet"]


@dataclass(frozen=True)
class ProtoNet(Algorithm):
    """Prototypical networks: classification by the nearest class prototype.

        c_k = mean of f(x) over the support examples of class k     (equation 1)
        p(y = k | x) = softmax_k(-||f(x) - c_k||^2)                 (equation 2)

    As in the paper, training episodes may have more classes than test episodes (`train.ways`).

    Differs from the paper: batch norm uses the statistics of the current batch, also at test time
    (`train.batch_norm`; paper: running averages).

    Source: Jake Snell, Kevin Swersky, Richard Zemel: Prototypical Networks for Few-shot Learning,
    NeurIPS 2017. https://arxiv.org/abs/1703.05175
    """

    any_ways: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        prototypes = ops.class_means(
            support, episode.support_y, episode.classes, episode.support_size
        )
        # A linear map (section 2.4): -||q - c||^2 without ||q||^2, which is equal for all classes.
        return ops.linear(query, 2 * prototypes, -prototypes.square().sum(-1))
