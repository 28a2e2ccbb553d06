"""tiered-ImageNet: 608 classes of ImageNet in 34 groups, 351 / 97 / 160 for training, validation and test, whole groups apart.

Mengye Ren et al.: Meta-Learning for Semi-Supervised Few-Shot Classification, ICLR 2018. https://arxiv.org/abs/1803.00676
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from episodic.datasets.base import Images, Limits, Progress, no_progress
from episodic.datasets.sources import imagenet
from episodic.datasets.sources.imagenet import LICENSE

__all__ = ["LICENSE", "Config", "fetch", "limits", "prepare"]

NAME = "tiered_imagenet"
LEAST = 100
"""Pictures that a class must have; ILSVRC's training set has 732 to 1,300."""


@dataclass(frozen=True)
class Config:
    """Nothing to choose: the split is the published one."""

    __pydantic_config__ = {"extra": "forbid"}


def limits(config: Config, seed: int) -> Limits:
    return imagenet.limits(NAME, LEAST)


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    imagenet.fetch(raw, NAME, None, LEAST, mirror, progress)


def prepare(raw: Path, config: Config, seed: int) -> Images:
    return imagenet.prepare(raw, NAME, "whole groups apart")
