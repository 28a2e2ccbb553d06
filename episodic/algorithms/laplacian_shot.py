"""LaplacianShot: nearby queries have the same label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic import ops
from episodic.core.config import NonNegativeFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import MetaLearner
from episodic.engine.normalized_features import (
    NormalizedFeatures,
    rectify_prototypes,
    shift_queries,
)

__all__ = ["LaplacianShot"]

ROWS_AT_ONCE = 512
"""Queries whose distances to all others are in memory at a time."""


@dataclass(frozen=True)
class LaplacianShot(NormalizedFeatures):
    """LaplacianShot: nearest prototypes with a Laplacian regularizer, a transductive method.

    The soft labels y_q of all queries minimize the sum of their squared distances to prototypes and
    of the disagreement with their nearest neighbours in the query set:

        a_qk = ||z_q - m_k||^2
        y_q <- softmax_k(-a_qk + laplacian_weight * sum_p w_qp y_pk)     (bound updates)

    w_qp is 1 if p is one of the nearest neighbours of q, else 0. The m_k are class means, or
    rectified prototypes as in `bd_cspn`.

    Differs from the paper: the number of updates is fixed (paper: at most as many, until
    convergence). A model with parameters is meta-trained on episodes through the updates (paper: a
    classifier of all training classes).

    Args:
        centre: Whether to subtract the mean features of the training classes.
        neighbours: Number of nearest neighbours of each query.
        laplacian_weight: Weight of the disagreement (lambda). The paper chooses it on validation
            episodes from 0.1 to 1.5; this is the default of the authors' code.
        updates: Number of bound updates.
        rectify: Whether to shift the queries and to rectify the prototypes. Veilleux et al. (2021)
            do not for unbalanced query sets.

    Source: Imtiaz Masud Ziko, Jose Dolz, Eric Granger, Ismail Ben Ayed: Laplacian Regularized
    Few-Shot Learning, ICML 2020, algorithm 1. https://arxiv.org/abs/2006.15486
    """

    neighbours: Annotated[int, Ge(1), Le(1000)] = 3
    laplacian_weight: NonNegativeFloat = 0.5
    updates: Annotated[int, Ge(0), Le(1000)] = 20
    rectify: bool = True

    transductive: ClassVar[bool] = True

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = self.normalize_features(learner, theta, episode, batch_norm)
        if self.rectify:
            query = shift_queries(support, query)
            prototypes = rectify_prototypes(support, episode.support_y, query, episode.classes)
        else:
            prototypes = ops.class_means(support, episode.support_y, episode.classes)
        # -||z - m||^2 without ||z||^2, which is equal for all classes.
        unary = ops.linear(query, 2 * prototypes, -prototypes.square().sum(-1))
        nearest = find_neighbours(query, self.neighbours)
        task = torch.arange(len(query), device=query.device)[:, None, None]
        outputs = unary
        for _ in range(self.updates):
            agreement = outputs.softmax(-1)[task, nearest].sum(2)
            outputs = unary + self.laplacian_weight * agreement
        return outputs


def find_neighbours(x: Tensor, neighbours: int) -> Tensor:
    """Find the nearest neighbours of each example among the others, of the same task.

    Args:
        x: Examples `(tasks, n, width)`.
        neighbours: Number of neighbours k. If there are fewer other examples, all are neighbours.

    Returns:
        Their rows `(tasks, n, k)`.
    """
    n = x.shape[1]
    k = max(0, min(neighbours, n - 1))
    rows = torch.arange(n, device=x.device)
    with torch.no_grad():
        squares = x.square().sum(-1)
        nearest = []
        for some in torch.split(rows, ROWS_AT_ONCE):  # memory grows with n, not with its square
            distance = squares[:, some, None] + squares[:, None] - 2 * x[:, some] @ x.mT
            distance[:, some - some[0], some] = torch.inf
            nearest.append(distance.topk(k, largest=False).indices)
        return torch.cat(nearest, 1)
