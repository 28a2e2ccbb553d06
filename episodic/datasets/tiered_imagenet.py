"""tiered-ImageNet: 608 classes of ImageNet in 34 groups."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.datasets.sources.imagenet import ImageNetSubset

__all__ = ["TieredImageNet"]


@dataclass(frozen=True)
class TieredImageNet(ImageNetSubset):
    """608 classes of ImageNet, 351 / 97 / 160 for training, validation and test, split by group.

    The images may be used for non-commercial research and education, and not be redistributed.

    Mengye Ren et al.: Meta-Learning for Semi-Supervised Few-Shot Classification, ICLR 2018.
    https://arxiv.org/abs/1803.00676
    """

    name = "tiered_imagenet"
    protocol = "split by group"
    min_images = 100  # ILSVRC's training set has 732 to 1,300
