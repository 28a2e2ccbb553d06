"""BD-CSPN: prototypes that are rectified by the query set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import MetaLearner
from episodic.engine.normalized_features import (
    NormalizedFeatures,
    rectify_prototypes,
    shift_queries,
)

__all__ = ["BDCSPN"]


@dataclass(frozen=True)
class BDCSPN(NormalizedFeatures):
    """Cosine prototypes with diminished bias (BD-CSPN), a transductive method.

        query shift:    z_q <- z_q + mean of the support set - mean of the query set
        pseudo-labels:  each query has the label of the most similar class mean
        prototypes:     weighted mean of the support examples and of the pseudo-labelled queries
        p(y = k | x) = softmax_k(scale cos(z(x), prototype_k))

    Differs from the paper: all queries are pseudo-labelled (paper: the most confident ones of each
    class). A model with parameters is meta-trained on episodes by the loss of these probabilities
    (paper: a cosine classifier of all training classes). Features can be centred, as in the
    comparison of Veilleux et al. (2021).

    Args:
        centre: Whether to subtract the mean features of the training classes.
        scale: Scale (inverse temperature) of the cosine similarities.

    Source: Jinlu Liu, Liang Song, Yongqiang Qin: Prototype Rectification for Few-Shot Learning,
    ECCV 2020. https://arxiv.org/abs/1911.10713
    """

    centre: bool = False
    scale: PositiveFloat = 10.0

    transductive: ClassVar[bool] = True

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = self.normalize_features(learner, theta, episode, batch_norm)
        query = shift_queries(support, query)
        prototypes = rectify_prototypes(support, episode.support_y, query, episode.classes)
        return self.scale * ops.cosine(query, prototypes)
