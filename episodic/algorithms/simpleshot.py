"""SimpleShot: the nearest class mean of centred and normalized features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import MetaLearner
from episodic.engine.normalized_features import NormalizedFeatures

__all__ = ["SimpleShot"]


@dataclass(frozen=True)
class SimpleShot(NormalizedFeatures):
    """SimpleShot: the nearest class mean of centred features of length 1 (CL2N).

        z(x) = (f(x) - centre) / ||f(x) - centre||
        c_k = mean of z(x) over the support examples of class k
        p(y = k | x) = softmax_k(-scale ||z(x) - c_k||^2)

    The centre is the mean of f over training episodes. A model without parameters, such as `mlp`
    without hidden layers on vectors, needs no training.

    Differs from the paper: a model with parameters is meta-trained on episodes by the loss of these
    probabilities (paper: a classifier of all training classes). The scale affects probabilities and
    training, but not which class is the nearest.

    Args:
        centre: Whether to subtract the mean features of the training classes (CL2N instead of L2N).
        scale: Scale (inverse temperature) of the squared distances.

    Source: Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten: SimpleShot:
    Revisiting Nearest-Neighbor Classification for Few-Shot Learning, 2019.
    https://arxiv.org/abs/1911.04623
    """

    scale: PositiveFloat = 10.0

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = self.normalize_features(learner, theta, episode, batch_norm)
        means = ops.class_means(support, episode.support_y, episode.classes)
        # Without ||z||^2, which is equal for all classes.
        return self.scale * ops.linear(query, 2 * means, -means.square().sum(-1))
