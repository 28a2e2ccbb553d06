"""Similarity of classes: the cosine between the means of their inputs or of a model's features."""

from __future__ import annotations

import torch
from torch import Tensor

from episodic.data.storage import Examples

__all__ = ["cosine_similarity", "find_neighbours", "mean_class_inputs", "rank_neighbours"]

MAX_EXAMPLES = 100
"""Examples of a class, the first ones, that its mean is taken over."""

CHUNK_SIZE = 256
"""Points whose neighbours are searched at once."""


def mean_class_inputs(examples: Examples, offsets: Tensor, counts: Tensor) -> Tensor:
    """Compute the mean input of each class.

    Args:
        examples: Examples by row.
        offsets: First row of each class, int64 `(classes,)`.
        counts: Examples per class, int64 `(classes,)`.

    Returns:
        float64 `(classes, width)` on the CPU. The mean of tokens is how often each token occurs per
        example.
    """
    means = []
    for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
        rows = torch.arange(offset, offset + min(count, MAX_EXAMPLES), device=examples.device)
        x = examples[rows].flatten(1)
        if x.dtype == torch.int64:
            means.append(torch.bincount(x.flatten().cpu()).double() / len(x))
        else:
            means.append(x.cpu().double().mean(0))
    return torch.nn.utils.rnn.pad_sequence(means, batch_first=True)


def cosine_similarity(points: Tensor) -> Tensor:
    """Compute the centred cosine similarity of all pairs of points.

    The mean of all points is subtracted, since images with little ink, and features after a ReLU,
    all have similar directions from 0. Results are rounded, so ranks do not depend on the last
    bit.

    Args:
        points: `(n, width)`.

    Returns:
        float64 `(n, n)` from -1 to 1.
    """
    directions = _centred_directions(points)
    return _round_cosines(directions @ directions.T)


def _centred_directions(points: Tensor) -> Tensor:
    centred = points.double() - points.double().mean(0)
    length = centred.norm(dim=1, keepdim=True)
    return centred / torch.where(length > 0, length, torch.ones_like(length))


def _round_cosines(cosines: Tensor) -> Tensor:
    return cosines.clamp(-1, 1).round(decimals=9)


def find_neighbours(points: Tensor, k: int) -> Tensor:
    """Find the nearest neighbours of each point.

    The result is `rank_neighbours(cosine_similarity(points), k)`, without holding all cosines in
    memory.

    Args:
        points: `(n, width)`.
        k: Number of neighbours, including the point itself.

    Returns:
        int64 `(n, min(k, n))`.
    """
    directions, neighbours = _centred_directions(points), []
    for first in range(0, len(directions), CHUNK_SIZE):
        rows = torch.arange(first, min(first + CHUNK_SIZE, len(directions)))
        cosines = _round_cosines(directions[rows] @ directions.T)
        neighbours.append(_rank_rows(cosines, rows, k))
    return torch.cat(neighbours)


def rank_neighbours(similarity: Tensor, k: int) -> Tensor:
    """Rank the neighbours of each point by similarity.

    Args:
        similarity: Similarity of all pairs, `(n, n)`.
        k: Number of neighbours, including the point itself.

    Returns:
        int64 `(n, min(k, n))`. The point itself comes first, then the most similar ones. Ties are
        broken by the lower number.
    """
    return _rank_rows(similarity.clone(), torch.arange(len(similarity)), k)


def _rank_rows(similarity: Tensor, own: Tensor, k: int) -> Tensor:
    similarity[torch.arange(len(own)), own] = 2.0
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :k].contiguous()
