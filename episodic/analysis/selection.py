"""Which examples of an unlabelled pool to label next, from features and probabilities.

Every function returns positions in the pool, the most useful first. Ties go to the first example.
A batch is chosen one example after the other, with regard to those chosen before, so that
near-duplicates do not fill it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from episodic.core import random_numbers

__all__ = [
    "count_represented",
    "margins",
    "select_covering",
    "select_random",
    "select_typical",
    "select_uncertain",
    "typicality",
]

MAX_REFERENCES, MAX_DISTANCES = 2048, 1 << 26
"""Bounds on the examples that coverage is measured on, and on the distances in memory."""

ROWS = 1024
"""Rows of a matrix of distances that are processed at once."""

NEIGHBOURS = 20
LLOYD_STEPS = 20


def margins(probabilities: Tensor) -> Tensor:
    """Compute the difference of the two largest probabilities.

    Args:
        probabilities: Class probabilities `(n, classes)`, of at least two classes.

    Returns:
        `(n,)`, from 0 (undecided) to 1.

    Source: Tobias Scheffer, Christian Decomain, Stefan Wrobel: Active Hidden Markov Models for
    Information Extraction, 2001. https://doi.org/10.1007/3-540-44816-0_31
    """
    first, second = probabilities.topk(2, -1).values.unbind(-1)
    return first - second


def typicality(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Compute the inverse of the mean distance to the nearest neighbours.

    Args:
        features: Features `(n, width)`.
        neighbours: Number of neighbours; all others if there are fewer.

    Returns:
        `(n,)`. Infinite for an example whose neighbours are copies of it, and if there are no
        neighbours.

    Source: Hacohen, Dekel, Weinshall: Active Learning on a Budget, ICML 2022, equation 4.
    https://arxiv.org/abs/2202.02794
    """
    n = len(features)
    k = min(neighbours, n - 1)
    if k < 1:
        return torch.full((n,), torch.inf, dtype=torch.float64)
    means = []
    for start in range(0, n, ROWS):
        squared = _squared_distances(features[start : start + ROWS], features)
        rows = torch.arange(len(squared))
        squared[rows, start + rows] = torch.inf
        means.append(squared.topk(k, -1, largest=False).values.sqrt().mean(-1))
    return 1 / torch.cat(means)


def select_random(size: int, n: int, seed: int) -> Tensor:
    """Select examples at random.

    Args:
        size: Size of the pool.
        n: Number of examples to select; all if the pool is smaller.
        seed: Seed of the order.

    Returns:
        int64 `(min(n, size),)`. With a larger `n`, the first ones are the same.
    """
    return _shuffle(size, seed, "random suggestions")[:n]


def select_uncertain(features: Tensor, probabilities: Tensor, n: int) -> Tensor:
    """Select examples with a small margin that are not close to each other.

    The first has the smallest margin. Every other maximizes

        (1 - margin(x)) min(1, d(x)^2 / r^2)

    where d is the distance to the nearest one selected before, and r^2 the mean squared distance
    of two examples of the pool. A copy of a selected example is selected last.

    Args:
        features: Features `(size, width)`.
        probabilities: Class probabilities `(size, classes)`.
        n: Number of examples to select; all if the pool is smaller.

    Returns:
        int64 `(min(n, size),)`.
    """
    features = features.double()
    uncertainty = 1 - margins(probabilities.double())
    centred = features - features.mean(0)
    spread = 2 * centred.square().sum(-1).mean().clamp_min(1e-300)
    novelty = torch.ones_like(uncertainty)
    chosen: list[int] = []
    for _ in range(min(n, len(features))):
        score = uncertainty * novelty
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        squared = _squared_distances(features, features[chosen[-1:]])[:, 0]
        novelty = torch.minimum(novelty, squared / spread)
    return torch.tensor(chosen, dtype=torch.int64)


def select_covering(
    features: Tensor,
    labelled: Tensor,
    n: int,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Select examples such that every example of the pool is close to a labelled one.

    Each lowers the following cost the most (greedy k-medoids, or facility location):

        sum over the pool of weight(x) min over labelled and selected z of ||x - z||^2

    Without labelled examples, the first is therefore the medoid. The reduction of the cost is
    submodular, so it is at least 1 - 1/e, 63 %, of that of the best n examples.

    In a pool of more than `MAX_REFERENCES` examples, the cost is that of a random part of it.

    Args:
        features: Features of the pool `(size, width)`.
        labelled: Features of the labelled examples `(m, width)`; m may be 0.
        n: Number of examples to select; all if the pool is smaller.
        weights: Weight of each example in the cost `(size,)`, not negative. None: equal.
        seed: Seed of the part of a large pool.

    Returns:
        int64 `(min(n, size),)`.

    Sources: Nemhauser, Wolsey, Fisher: An analysis of approximations for maximizing submodular set
    functions, 1978. https://doi.org/10.1007/BF01588971 Wei, Iyer, Bilmes: Submodularity in Data
    Subset Selection and Active Learning, ICML 2015.
    """
    size = len(features)
    n = min(n, size)
    if n == 0:
        return torch.zeros(0, dtype=torch.int64)
    number = max(1, min(size, MAX_REFERENCES, MAX_DISTANCES // size))
    part = _shuffle(size, seed, "references of coverage")[:number].sort().values
    references = features[part]
    weight = torch.ones(number) if weights is None else weights[part]
    weight = weight.double()
    squared = _squared_distances(features, references)
    if len(labelled):
        nearest = _squared_distances(labelled, references).min(0).values
    else:
        nearest = squared.max().expand(number)

    def gains(rows: Tensor) -> Tensor:
        return ((nearest - rows).clamp_min(0) * weight).sum(-1)

    # A gain only decreases, so one that was computed earlier is a bound (lazy greedy algorithm).
    bounds = torch.cat([gains(rows) for rows in torch.split(squared, ROWS)])
    chosen: list[int] = []
    while len(chosen) < n:
        is_current = torch.zeros(size, dtype=torch.bool)
        while not is_current[best := int(bounds.argmax())]:
            bounds[best] = gains(squared[best])
            is_current[best] = True
        chosen.append(best)
        bounds[best] = -1
        nearest = torch.minimum(nearest, squared[best])
    return torch.tensor(chosen, dtype=torch.int64)


def select_typical(features: Tensor, labelled: Tensor, n: int) -> Tensor:
    """Select the most typical example of each of the largest clusters without a label (TypiClust).

    Pool and labelled examples form m + n clusters by k-means. The examples come from the clusters
    with the fewest labels, the largest first.

    Differs from the paper: k-means starts from the centres of `select_covering`, so it is
    deterministic. Small clusters are not skipped, and the number of clusters has no bound. The
    features are those of the model, not of self-supervised learning on the pool.

    Args:
        features: Features of the pool `(size, width)`.
        labelled: Features of the labelled examples `(m, width)`; m may be 0.
        n: Number of examples to select; all if the pool is smaller.

    Returns:
        int64 `(min(n, size),)`.

    Source: Hacohen, Dekel, Weinshall: Active Learning on a Budget, ICML 2022, algorithm 1.
    https://arxiv.org/abs/2202.02794
    """
    size, m = len(features), len(labelled)
    n = min(n, size)
    if n == 0:
        return torch.zeros(0, dtype=torch.int64)
    x = torch.cat([features.double(), labelled.double()])
    cluster = _cluster(x, min(m + n, len(x)))
    members = [(cluster[:size] == k).nonzero()[:, 0] for k in range(int(cluster.max()) + 1)]
    # Of each cluster, the most typical first.
    queues = [
        rows[typicality(x[rows]).sort(descending=True, stable=True).indices].tolist()
        for rows in members
    ]
    labels = cluster[size:].bincount(minlength=len(queues)).tolist()
    chosen: list[int] = []
    while len(chosen) < n:
        open_clusters = [k for k, queue in enumerate(queues) if queue]
        k = min(open_clusters, key=lambda k: (labels[k], -len(members[k])))
        chosen.append(queues[k].pop(0))
        labels[k] += 1
    return torch.tensor(chosen, dtype=torch.int64)


def count_represented(features: Tensor, labelled: Tensor, chosen: Tensor) -> Tensor:
    """Count the examples of the pool that each selected example is the closest to.

    Args:
        features: Features of the pool `(size, width)`.
        labelled: Features of the labelled examples `(m, width)`. They are closest to the rest.
        chosen: Positions of the selected examples, int64 `(n,)`.

    Returns:
        int64 `(n,)`. An example at equal distances counts for the labelled one, or the first.
    """
    centres = torch.cat([labelled.double(), features[chosen].double()])
    if not len(chosen):
        return torch.zeros(0, dtype=torch.int64)
    nearest = torch.cat(
        [_squared_distances(rows, centres).argmin(-1) for rows in torch.split(features, ROWS)]
    )
    return nearest.bincount(minlength=len(centres))[len(labelled) :]


def _cluster(x: Tensor, k: int) -> Tensor:
    """Return the cluster of each row, by k-means from the centres of `select_covering`."""
    centres = x[select_covering(x, x[:0], k)]
    for _ in range(LLOYD_STEPS):
        cluster = _squared_distances(x, centres).argmin(-1)
        total = torch.zeros_like(centres).index_add_(0, cluster, x)
        counts = cluster.bincount(minlength=k)[:, None]
        # A cluster that lost all its examples keeps its centre.
        moved = torch.where(counts > 0, total / counts.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return cluster


def _shuffle(size: int, seed: int, purpose: str) -> Tensor:
    """Return a random order of `size` examples."""
    key = random_numbers.key(seed, purpose)
    return random_numbers.random_bits(key, torch.arange(size), 1)[:, 0].argsort(stable=True)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute squared distances `(len(a), len(b))` in float64."""
    a, b = a.double(), b.double()
    return (a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.mT).clamp_min(0)
