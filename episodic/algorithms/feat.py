"""FEAT: class prototypes adapted to each other by self-attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic import ops
from episodic.core.config import NonNegativeFloat, PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.learner import MetaLearner
from episodic.engine.linear_head import LinearHead

__all__ = ["FEAT"]


@dataclass(frozen=True)
class FEAT(LinearHead):
    """Few-shot embedding adaptation with a transformer (FEAT).

        T(X) = layer_norm(X + softmax((X W_q) (X W_k)^T / sqrt(width)) X W_v W_o + b_o)
        P = the class means of the support features, (ways, width)
        p(y = c | x) = softmax_c(-||f(x) - T(P)_c||^2 / temperature)

    Self-attention T with one head adapts the prototypes of a task to each other: it is a function
    of their set, so the order of the classes does not matter. The rest is a prototypical network.

    In training, a contrastive regularizer is added to the query loss ("contrastive learning of
    set-to-set functions"). T also adapts the features X_c of all support and query examples of each
    class c, and every example is classified by the means of the adapted features:

        m_c = mean of T(X_c)
        loss = query loss + contrastive_weight * (mean cross-entropy over all examples x of
               softmax_c(-||f(x) - m_c||^2 / temperature))

    Differs from the paper: both softmax functions have the same temperature. There is no dropout
    in the attention, and no pretraining of the backbone. Batch norm uses the statistics of the
    current batch, also at test time (`train.batch_norm`; paper: running averages).

    Args:
        temperature: Divides the squared distances. A larger one suits longer features: 64 those of
            a network, and 4 features of length 1.
        contrastive_weight: Weight of the contrastive regularizer, lambda (paper: 0.01 to 0.1). 0:
            no regularizer.

    Source: Han-Jia Ye, Hexiang Hu, De-Chuan Zhan, Fei Sha: Few-Shot Learning via Embedding
    Adaptation with Set-to-Set Functions, CVPR 2020. https://arxiv.org/abs/1812.03664
    """

    temperature: PositiveFloat = 64.0
    contrastive_weight: NonNegativeFloat = 0.1

    masks_padding: ClassVar[bool] = True

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        width = model.width
        matrices = {
            f"attention.{name}": torch.randn(width, width, generator=generator) / math.sqrt(width)
            for name in ("query", "key", "value", "output")
        }
        return (
            theta
            | matrices
            | {
                "attention.bias": torch.zeros(width),
                "attention.scale": torch.ones(width),
                "attention.shift": torch.zeros(width),
            }
        )

    def training_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode
    ) -> tuple[Tensor, Tensor | None]:
        support, query = learner.apply_to_both(
            learner.model.features, theta, episode, learner.batch_norm
        )
        weight, bias = self.solve_head(theta, support, episode)
        outputs = query @ weight + bias
        if not self.contrastive_weight:
            return outputs, None
        loss = self._contrastive_loss(theta, torch.cat([support, query], 1), episode)
        return outputs, self.contrastive_weight * loss

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        prototypes = ops.class_means(
            support, episode.support_y, episode.classes, episode.support_size
        )
        similarity = episode.mask_classes(_compute_similarity(theta, prototypes))
        return self._nearest_centre(_adapt_set(theta, prototypes, similarity))

    def _nearest_centre(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the classification by the nearest centre.

        It is a linear map: -||x - c||^2 without ||x||^2, which is equal for all classes.

        Args:
            centres: `(tasks, ways, width)`.
        """
        lengths = centres.square().sum(-1)[:, None]
        return 2 * centres.mT / self.temperature, -lengths / self.temperature

    def _contrastive_loss(self, theta: Params, x: Tensor, episode: Episode) -> Tensor:
        """Compute the cross-entropy of all examples by the centres of their adapted features.

        Args:
            theta: Parameters `(tasks, *shape)`.
            x: Features of the support set and the query set `(tasks, n, width)`.
            episode: The tasks.

        Returns:
            `(tasks,)`.
        """
        y = torch.cat([episode.support_y, episode.query_y], 1)
        is_example = episode.example_mask
        labels = F.one_hot(y, episode.classes).to(x.dtype)
        members = labels * is_example[..., None]
        is_same_class = (labels @ members.mT).bool()
        similarity = _compute_similarity(theta, x).masked_fill(~is_same_class, -torch.inf)
        adapted = _adapt_set(theta, x, similarity)
        centres = (members.mT @ adapted) / members.sum(1).clamp_min(1)[..., None]
        weight, bias = self._nearest_centre(centres)
        logits = episode.mask_classes(x @ weight + bias)
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
        return torch.where(is_example, losses, 0).sum(1) / is_example.sum(1)


def _compute_similarity(theta: Params, x: Tensor) -> Tensor:
    """Compute the logits of self-attention over x `(tasks, n, width)`: `(tasks, n, n)`."""
    query, key = (_apply(x, theta[f"attention.{name}"]) for name in ("query", "key"))
    return query @ key.mT / math.sqrt(x.shape[-1])


def _apply(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply x `(tasks, n, width)` by a matrix `(tasks, width, width)`.

    No inner step changes the matrix, so it is the same for all tasks. A single product is faster,
    and its gradient needs the memory of one matrix instead of one per task.
    """
    return (x.flatten(0, 1) @ matrix[0]).view(x.shape)


def _adapt_set(theta: Params, x: Tensor, similarity: Tensor) -> Tensor:
    """Apply the self-attention layer T to x `(tasks, n, width)`.

    Args:
        theta: Parameters `(tasks, *shape)`.
        x: Features or prototypes.
        similarity: Logits of the attention, -inf where it must be 0.
    """
    value = _apply(similarity.softmax(-1) @ x, theta["attention.value"])
    total = x + _apply(value, theta["attention.output"]) + theta["attention.bias"][:, None]
    normalized = F.layer_norm(total, x.shape[-1:])
    return normalized * theta["attention.scale"][:, None] + theta["attention.shift"][:, None]
