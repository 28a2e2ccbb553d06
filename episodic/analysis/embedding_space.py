"""The learned embedding of classes, and its projection onto two dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.model import Params
from episodic.data.sampling import build_class_episode
from episodic.data.storage import Examples
from episodic.engine.learner import MetaLearner

__all__ = [
    "PrincipalPlane",
    "class_centroids",
    "embed_rows",
    "principal_plane",
    "shuffle_rows",
    "split_evenly",
]

EXAMPLES = 20
"""Number of leading examples per class, whose mean embedding represents the class."""

MAX_CHUNK = 128
"""Maximum number of examples that are embedded at once."""


def shuffle_rows(offsets: Tensor, counts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """List the rows of the examples to embed, in random order.

    Batch norm uses the statistics of the examples that are embedded together. Statistics of a
    single class would remove its difference from other classes.

    Args:
        offsets: First row of each class, int64 `(classes,)`.
        counts: Number of examples of each class, int64 `(classes,)`.
        seed: Seed of the order.

    Returns:
        The rows, and the class of each, int64 `(n,)`.
    """
    sizes = counts.clamp(max=EXAMPLES)
    class_of = torch.arange(len(counts)).repeat_interleave(sizes)
    rows = torch.cat(
        [
            torch.arange(first, first + n)
            for first, n in zip(offsets.tolist(), sizes.tolist(), strict=True)
        ]
    )
    key = random_numbers.key(seed, "map of classes")
    order = random_numbers.random_bits(key, torch.arange(len(rows)), 1)[:, 0].argsort(stable=True)
    return rows[order], class_of[order]


def split_evenly(n: int) -> list[int]:
    """Split `n` examples into chunks of nearly equal size, of at most `MAX_CHUNK`."""
    number = -(-n // MAX_CHUNK)
    return [n // number + (i < n % number) for i in range(number)]


def embed_rows(
    learner: MetaLearner,
    theta: Params,
    examples: Examples,
    rows: Tensor,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Compute the features of examples.

    Args:
        learner: The learner. Only its model is used.
        theta: Parameters with a task axis of length 1.
        examples: All examples.
        rows: Rows to embed, int64 `(n,)`.
        device: Device of the parameters. With an Apple GPU the examples are on the CPU.

    Returns:
        Features `(n, width)`.
    """
    x = build_class_episode(
        examples, rows.to(examples.device)[None], rows[:1].to(examples.device)[None], 1
    ).support_x
    with torch.no_grad():
        return learner.model.features(theta, x.to(device))[0].flatten(1)


def class_centroids(features: Tensor, class_of: Tensor, classes: int) -> Tensor:
    """Compute the mean features of each class.

    Args:
        features: Features `(n, width)`.
        class_of: The class of each row, int64 `(n,)`.
        classes: Number of classes.

    Returns:
        Means `(classes, width)`, float64 on the CPU.
    """
    features = features.cpu().double()
    total = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    total.index_add_(0, class_of, features)
    return total / class_of.bincount(minlength=classes)[:, None]


class PrincipalPlane(NamedTuple):
    """Points projected onto their first two principal components.

    Args:
        coordinates: Coordinates `(n, 2)`, float64.
        variance_fractions: The fraction of the variance along each axis.
    """

    coordinates: Tensor
    variance_fractions: tuple[float, float]


def principal_plane(points: Tensor) -> PrincipalPlane:
    """Project points `(n, width)` onto their first two principal components.

    The sign of each axis makes its largest loading positive.
    """
    centered = points.double() - points.double().mean(0)
    _, length, axes = torch.linalg.svd(centered, full_matrices=False)
    coordinates = torch.zeros(len(centered), 2, dtype=torch.float64)
    total = float(length.square().sum())
    variance_fractions = [0.0, 0.0]
    for i in range(min(2, len(axes))):
        axis = axes[i] * axes[i][axes[i].abs().argmax()].sign()
        coordinates[:, i] = centered @ axis
        variance_fractions[i] = float(length[i].square()) / total if total else 0.0
    return PrincipalPlane(
        coordinates.round(decimals=9), (variance_fractions[0], variance_fractions[1])
    )
