"""FEAT: class prototypes adapted to each other by self-attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.linear_head import LinearHead

__all__ = ["FEAT"]


@dataclass(frozen=True)
class FEAT(LinearHead):
    """Few-shot embedding adaptation with a transformer (FEAT).

        P = the class means of the support features, (ways, width)
        A = softmax((P W_q) (P W_k)^T / sqrt(width))                       (equation 6)
        P' = layer_norm(P + (A P W_v) W_o + b_o)                           (equation 7)
        p(y = c | x) = softmax_c(-||f(x) - P'_c||^2 / temperature)

    Self-attention with one head adapts the prototypes of a task to each other: it is a function of
    their set, so the order of the classes does not matter. The rest is a prototypical network.

    Differs from the paper: there is no contrastive regularization (its weight is a hyper-parameter
    of the paper), no dropout in the attention, and no pretraining of the backbone. Batch norm uses
    the statistics of the current batch, also at test time (`train.batch_norm`; paper: running
    averages).

    Args:
        temperature: Divides the squared distances. A larger one suits a larger width.

    Source: Han-Jia Ye, Hexiang Hu, De-Chuan Zhan, Fei Sha: Few-Shot Learning via Embedding
    Adaptation with Set-to-Set Functions, CVPR 2020. https://arxiv.org/abs/1812.03664
    """

    temperature: PositiveFloat = 64.0

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

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        prototypes = ops.class_means(support, episode.support_y, episode.classes)
        prototypes = _adapt_prototypes(theta, prototypes)
        # A linear map: -||q - p||^2 without ||q||^2, which is equal for all classes.
        lengths = prototypes.square().sum(-1)[:, None]
        return 2 * prototypes.mT / self.temperature, -lengths / self.temperature


def _adapt_prototypes(theta: Params, prototypes: Tensor) -> Tensor:
    """Apply the self-attention layer to prototypes `(tasks, ways, width)`."""
    query, key, value, output = (
        theta[f"attention.{name}"] for name in ("query", "key", "value", "output")
    )
    width = prototypes.shape[-1]
    similarity = (prototypes @ query) @ (prototypes @ key).mT / math.sqrt(width)
    attended = similarity.softmax(-1) @ prototypes @ value
    total = prototypes + attended @ output + theta["attention.bias"][:, None]
    normalized = F.layer_norm(total, (width,))
    return normalized * theta["attention.scale"][:, None] + theta["attention.shift"][:, None]
