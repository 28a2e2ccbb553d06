"""The algorithm `protonet`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import Algorithm

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["ProtoNet"]


@dataclass(frozen=True)
class ProtoNet(Algorithm):
    """Jake Snell, Kevin Swersky, Richard Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017. https://arxiv.org/abs/1703.05175

        c_k = mean of f(x) over the support examples of class k                    (equation 1)
        p(y = k | x) = softmax_k(-||f(x) - c_k||^2)                                (equation 2)

    More ways in training than at test, as in the paper, are `train.ways`.

    Differs from the paper: batch norm takes the statistics of the images in hand, at test too (`train.batch_norm`; there: running averages).
    """

    any_ways: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        prototypes = ops.class_means(support, episode.support_y, episode.classes)
        # -||q - c||^2 without ||q||^2, which is the same for every class: a linear map (section 2.4).
        return ops.linear(query, 2 * prototypes, -prototypes.square().sum(-1))
