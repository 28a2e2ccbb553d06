"""The learned space of tasks: where a model puts the classes, on a map of two dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.model import Params
from episodic.data.sampling import labelled_episode
from episodic.data.storage import Rows
from episodic.engine.learner import MetaLearner

EXAMPLES = 20
"""Examples of a class, the first ones, that its place is the mean of."""

AT_ONCE = 128
"""Examples that the model sees together at most."""


def mixed(offsets: Tensor, counts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to look at, and the class of each, int64 `(n,)`, in a random order: batch norm takes its statistics from those seen
    together, and of a single class they would say nothing of how it differs."""
    taken = counts.clamp(max=EXAMPLES)
    of = torch.arange(len(counts)).repeat_interleave(taken)
    rows = torch.cat(
        [
            torch.arange(first, first + n)
            for first, n in zip(offsets.tolist(), taken.tolist(), strict=True)
        ]
    )
    order = random_numbers.draws(
        random_numbers.key(seed, "map of classes"), torch.arange(len(rows)), 1
    )[:, 0].argsort(stable=True)
    return rows[order], of[order]


def parts(n: int) -> list[int]:
    """`n` examples as nearly equal numbers of at most AT_ONCE."""
    number = -(-n // AT_ONCE)
    return [n // number + (i < n % number) for i in range(number)]


def features(learner: MetaLearner, theta: Params, examples: Rows, rows: Tensor) -> Tensor:
    """What the head sees of the rows `(n, width)`; theta: with a task axis of 1."""
    x = labelled_episode(
        examples, rows.to(examples.device)[None], rows[:1].to(examples.device)[None], 1
    ).support_x
    x = x.to(next(iter(theta.values())).device)  # an Apple GPU's examples lie on the CPU
    with torch.no_grad():
        return learner.model.features(theta, x)[0].flatten(1)


def centroids(found: Tensor, of: Tensor, classes: int) -> Tensor:
    """The mean of each class `(classes, width)`; of: the class of each row of `found`."""
    found = found.cpu().double()
    total = torch.zeros(classes, found.shape[1], dtype=torch.float64).index_add_(0, of, found)
    return total / of.bincount(minlength=classes)[:, None]


class Map(NamedTuple):
    """places: `(n, 2)`; shares: of the variance that each of the two axes holds"""

    places: Tensor
    shares: tuple[float, float]


def principal(points: Tensor) -> Map:
    """Points `(n, width)` along their two principal components, each turned so that the largest of its loadings is positive."""
    apart = points.double() - points.double().mean(0)
    _, length, axes = torch.linalg.svd(apart, full_matrices=False)
    places, total = torch.zeros(len(apart), 2, dtype=torch.float64), float(length.square().sum())
    shares = [0.0, 0.0]
    for i in range(min(2, len(axes))):
        axis = axes[i] * axes[i][axes[i].abs().argmax()].sign()
        places[:, i] = apart @ axis
        shares[i] = float(length[i].square()) / total if total else 0.0
    return Map(places.round(decimals=9), (shares[0], shares[1]))
