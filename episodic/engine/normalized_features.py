"""Base class of algorithms that compare normalized features with class prototypes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.inner import expand
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["CENTRE", "NormalizedFeatures", "rectify_prototypes", "shift_queries"]

CENTRE = "features.centre"
"""Name of the meta-parameter with the mean features of the training classes, `(width,)`."""

RECTIFICATION_SCALE = 10.0
"""Scale of the cosine similarities that weight the examples of a rectified prototype."""


@dataclass(frozen=True)
class NormalizedFeatures(Algorithm):
    """Base class of algorithms on features of length 1.

        z(x) = (f(x) - centre) / ||f(x) - centre||

    The centre is the mean of f over training episodes. It is estimated, not learned: no gradient
    reaches it. Without centring it is 0, and the algorithm has no parameters of its own.

    Args:
        centre: Whether to subtract the mean features of the training classes (CL2N instead of L2N).

    Source: Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten: SimpleShot, 2019,
    section 3. https://arxiv.org/abs/1911.04623
    """

    centre: bool = True

    any_ways: ClassVar[bool] = True
    regression: ClassVar[bool] = False
    estimated_names: ClassVar[frozenset[str]] = frozenset({CENTRE})

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        return theta | ({CENTRE: torch.zeros(model.width)} if self.centre else {})

    def estimate(self, learner: MetaLearner, meta: Params, episodes: Iterable[Episode]) -> Params:
        if not self.centre:
            return {}
        means = []
        for episode in episodes:
            theta = expand(meta, episode.tasks)
            sets = learner.apply_to_both(learner.model.features, theta, episode, learner.batch_norm)
            means.append(torch.cat(sets, 1).mean(1))
        return {CENTRE: torch.cat(means).mean(0)}

    def normalize_features(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> tuple[Tensor, Tensor]:
        """Compute the normalized features of both sets.

        Args:
            learner: The meta-learner.
            theta: Parameters `(tasks, *shape)`.
            episode: The tasks.
            batch_norm: One of `episodic.engine.learner.BATCH_NORM`.

        Returns:
            Features of length 1, `(tasks, n, width)` for each set.
        """
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        if self.centre:
            centre = theta[CENTRE].detach()[:, None]
            support, query = support - centre, query - centre
        return F.normalize(support, dim=-1), F.normalize(query, dim=-1)


def shift_queries(support: Tensor, query: Tensor) -> Tensor:
    """Shift query features such that both sets have the same mean (cross-class bias).

    Args:
        support: Features `(tasks, n, width)`.
        query: Features `(tasks, m, width)`.

    Returns:
        `(tasks, m, width)`.

    Source: Liu et al.: Prototype Rectification for Few-Shot Learning, 2020, section 3.3.
    """
    return query + (support.mean(1, keepdim=True) - query.mean(1, keepdim=True))


def rectify_prototypes(support: Tensor, support_y: Tensor, query: Tensor, ways: int) -> Tensor:
    """Compute prototypes from the support set and from pseudo-labelled queries (intra-class bias).

    A query has the label of the prototype with the largest cosine similarity. The prototype of a
    class becomes the weighted mean of its examples. The weight of an example is its probability of
    this class by a softmax over the scaled similarities with all prototypes.

    Args:
        support: Features `(tasks, n, width)`.
        support_y: Labels, int64 `(tasks, n)`.
        query: Features `(tasks, m, width)`, as from `shift_queries`.
        ways: Number of classes.

    Returns:
        `(tasks, ways, width)`.

    Source: Liu et al.: Prototype Rectification for Few-Shot Learning, 2020, section 3.3.
    """
    examples = torch.cat([support, query], 1)
    prototypes = ops.class_means(support, support_y, ways)
    similarity = ops.cosine(examples, prototypes)
    pseudo_labels = similarity[:, support.shape[1] :].argmax(-1)
    labels = F.one_hot(torch.cat([support_y, pseudo_labels], 1), ways)
    weights = labels * (RECTIFICATION_SCALE * similarity).softmax(-1)
    return (weights.mT @ examples) / weights.sum(1)[..., None]
