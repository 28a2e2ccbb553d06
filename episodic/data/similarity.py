"""How alike classes are, by the means of their examples: of the inputs as they are, or of a model's features."""

from __future__ import annotations

import torch
from torch import Tensor

from episodic.data.storage import Rows

MEAN_OF = 100
"""Examples of a class, the first ones, that its mean takes."""

AT_ONCE = 256
"""Points whose neighbours are looked for together."""


def class_means(examples: Rows, offsets: Tensor, counts: Tensor) -> Tensor:
    """The mean input of each class `(classes, numbers)`, float64 on the CPU; of tokens how often each occurs.

    offsets, counts: int64 `(classes,)`, the first row of each class and how many it has
    """
    means = []
    for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
        x = examples[
            torch.arange(offset, offset + min(count, MEAN_OF), device=examples.device)
        ].flatten(1)
        if x.dtype == torch.int64:
            means.append(torch.bincount(x.flatten().cpu()).double() / len(x))
        else:
            means.append(x.cpu().double().mean(0))
    return torch.nn.utils.rnn.pad_sequence(means, batch_first=True)


def cosine(points: Tensor) -> Tensor:
    """How alike each two points `(n, width)` are, `(n, n)` from -1 to 1: the cosine of their angle, seen from the mean of all points.

    (Not from 0: images of little ink, and features after a ReLU, all point one way.) Rounded, so that no order hangs on the last bit.
    """
    unit = _directions(points)
    return _rounded(unit @ unit.T)


def _directions(points: Tensor) -> Tensor:
    apart = points.double() - points.double().mean(0)
    length = apart.norm(dim=1, keepdim=True)
    return apart / torch.where(length > 0, length, torch.ones_like(length))


def _rounded(cosines: Tensor) -> Tensor:
    return cosines.clamp(-1, 1).round(decimals=9)


def nearest(points: Tensor, k: int) -> Tensor:
    """`neighbours(cosine(points), k)`, without all of the cosines in memory."""
    unit, found = _directions(points), []
    for first in range(0, len(unit), AT_ONCE):
        rows = torch.arange(first, min(first + AT_ONCE, len(unit)))
        found.append(_nearest(_rounded(unit[rows] @ unit.T), rows, k))
    return torch.cat(found)


def neighbours(similarity: Tensor, k: int) -> Tensor:
    """Each point and the k - 1 others most alike to it, int64 `(n, min(k, n))`; of equals the one with the lower number."""
    return _nearest(similarity.clone(), torch.arange(len(similarity)), k)


def _nearest(similarity: Tensor, own: Tensor, k: int) -> Tensor:
    similarity[torch.arange(len(own)), own] = 2.0
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :k].contiguous()
