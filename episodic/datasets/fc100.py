"""FC100: a split of CIFAR-100's classes that keeps groups together."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.datasets.sources.cifar100 import Cifar100

__all__ = ["FC100"]


@dataclass(frozen=True)
class FC100(Cifar100):
    """CIFAR-100's classes, 60 / 20 / 20 for training, validation and test, split by group.

    The split is the published one: 12 / 4 / 4 groups. No licence of the images is stated.

    Boris Oreshkin, Pau Rodriguez, Alexandre Lacoste: TADAM: Task dependent adaptive metric for
    improved few-shot learning, NeurIPS 2018. https://arxiv.org/abs/1805.10123
    """

    column = "fc100"
    protocol = "FC100 split"
