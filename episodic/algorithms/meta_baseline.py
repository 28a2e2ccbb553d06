"""Meta-Baseline: a cosine nearest-centroid classifier with a learned scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["MetaBaseline"]


@dataclass(frozen=True)
class MetaBaseline(Algorithm):
    """Cosine similarity to the class means, with a learned scale, meta-trained.

        w_c = mean of f(x) over the support examples of class c         (equation 1)
        p(y = c | x) = softmax_c(scale * cos(f(x), w_c))                (equation 3)

    Meta-training starts from features that already classify well, such as those of a pretrained
    encoder. The scale is learned, because cosines alone are too small for a softmax.

    Differs from the paper: there is no classification stage before meta-training. Batch norm uses
    the statistics of the current batch, also at test time (`train.batch_norm`; paper: running
    averages).

    Args:
        scale: Initial scale (inverse temperature) of the cosine similarities.

    Source: Yinbo Chen, Zhuang Liu, Huijuan Xu, Trevor Darrell, Xiaolong Wang: Meta-Baseline:
    Exploring Simple Meta-Learning for Few-Shot Learning, ICCV 2021.
    https://arxiv.org/abs/2003.04390
    """

    scale: PositiveFloat = 10.0

    any_ways: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        return theta | {"cosine.scale": torch.full((1,), self.scale)}

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        centroids = ops.class_means(
            support, episode.support_y, episode.classes, episode.support_size
        )
        return theta["cosine.scale"][..., None] * ops.cosine(query, centroids)
