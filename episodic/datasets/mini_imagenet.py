"""mini-ImageNet: 100 classes of ImageNet with 600 pictures each, 64 / 16 / 20 for training, validation and test.

Oriol Vinyals et al.: Matching Networks for One Shot Learning, NeurIPS 2016, in the split of Sachin Ravi, Hugo Larochelle:
Optimization as a Model for Few-Shot Learning, ICLR 2017. https://arxiv.org/abs/1606.04080 https://openreview.net/forum?id=rJY0-Kcll
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from episodic.datasets.base import Images, Limits, Progress, no_progress
from episodic.datasets.sources import imagenet
from episodic.datasets.sources.imagenet import LICENSE

__all__ = ["LICENSE", "Config", "fetch", "limits", "prepare"]

NAME = "mini_imagenet"
EXAMPLES = 600


@dataclass(frozen=True)
class Config:
    """Nothing to choose: the split is the published one."""

    __pydantic_config__ = {"extra": "forbid"}


def limits(config: Config, seed: int) -> Limits:
    return imagenet.limits(NAME, EXAMPLES)


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    imagenet.fetch(raw, NAME, EXAMPLES, EXAMPLES, mirror, progress)


def prepare(raw: Path, config: Config, seed: int) -> Images:
    return imagenet.prepare(raw, NAME, "split of Ravi and Larochelle")
