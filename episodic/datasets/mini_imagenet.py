"""mini-ImageNet: 100 classes of ImageNet with 600 images each."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.datasets.sources.imagenet import ImageNetSubset

__all__ = ["MiniImageNet"]


@dataclass(frozen=True)
class MiniImageNet(ImageNetSubset):
    """100 classes of ImageNet with 600 images each, 64 / 16 / 20 for training, validation and test.

    The images may be used for non-commercial research and education, and not be redistributed.

    Oriol Vinyals et al.: Matching Networks for One Shot Learning, NeurIPS 2016
    (https://arxiv.org/abs/1606.04080), in the split of Sachin Ravi, Hugo Larochelle: Optimization
    as a Model for Few-Shot Learning, ICLR 2017. https://openreview.net/forum?id=rJY0-Kcll
    """

    name = "mini_imagenet"
    protocol = "split of Ravi and Larochelle"
    min_images = 600
    max_images = 600
