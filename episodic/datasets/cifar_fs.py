"""CIFAR-FS: CIFAR-100's classes, 64 / 16 / 20 for training, validation and test, drawn at random.

Luca Bertinetto, Joao Henriques, Philip Torr, Andrea Vedaldi: Meta-learning with differentiable closed-form solvers, ICLR 2019.
https://arxiv.org/abs/1805.08136
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from episodic.datasets.base import Images, Limits, Progress, no_progress
from episodic.datasets.sources import cifar100
from episodic.datasets.sources.cifar100 import LICENSE

__all__ = ["LICENSE", "Config", "fetch", "limits", "prepare"]

NAME = "cifar_fs"


@dataclass(frozen=True)
class Config:
    """Nothing to choose: the split is the published one."""

    __pydantic_config__ = {"extra": "forbid"}


def limits(config: Config, seed: int) -> Limits:
    return cifar100.limits(NAME)


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    cifar100.fetch(raw, mirror, progress)


def prepare(raw: Path, config: Config, seed: int) -> Images:
    return cifar100.prepare(raw, NAME, "CIFAR-FS split")
