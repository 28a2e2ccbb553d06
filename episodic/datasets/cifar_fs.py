"""CIFAR-FS: a random split of CIFAR-100's classes."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.datasets.sources.cifar100 import Cifar100

__all__ = ["CifarFS"]


@dataclass(frozen=True)
class CifarFS(Cifar100):
    """CIFAR-100's classes, 64 / 16 / 20 for training, validation and test, split at random.

    The split is the published one. No licence of the images is stated.

    Luca Bertinetto, Joao Henriques, Philip Torr, Andrea Vedaldi: Meta-learning with differentiable
    closed-form solvers, ICLR 2019. https://arxiv.org/abs/1805.08136
    """

    column = "cifar_fs"
    protocol = "CIFAR-FS split"
