"""CUB-200-2011: photographs of 200 species of birds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.photographs import Photographs

__all__ = ["CUB"]

CLOSER_LOOK = ("train", "validation", "train", "test")
"""The splits of four consecutive classes."""


@dataclass(frozen=True)
class CUB(Photographs):
    """11,788 photographs of 200 species of birds.

    The splits are:

    `meta_dataset`: 140 / 30 / 30 classes, by Triantafillou et al.: Meta-Dataset, 2020.
    https://arxiv.org/abs/1903.03096

    `closer_look`: 100 / 50 / 50 classes, as in the code of Chen et al.: A Closer Look at Few-shot
    Classification, 2019. https://arxiv.org/abs/1904.04232

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.
        split: `meta_dataset` or `closer_look`.

    Catherine Wah et al.: The Caltech-UCSD Birds-200-2011 Dataset, 2011.
    https://www.vision.caltech.edu/datasets/cub_200_2011/
    """

    split: Literal["meta_dataset", "closer_look"] = "meta_dataset"

    license = (
        "CUB-200-2011, https://www.vision.caltech.edu/datasets/cub_200_2011/, Catherine Wah et al. "
        "2011, for non-commercial research and education."
    )
    name = "cub"
    archives = (
        Archive(
            "CUB_200_2011.tgz",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
            2 << 30,
        ),
    )
    image_pattern = r"CUB_200_2011/images/[^/]+/[^/.][^/]*\.jpg"

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        return lambda name: name.split("/")[2]

    def assign_classes(self, seed: int) -> list[str]:
        splits = super().assign_classes(seed)
        if self.split == "meta_dataset":
            return splits
        return [CLOSER_LOOK[i % len(CLOSER_LOOK)] for i in range(len(splits))]

    @property
    def protocol(self) -> str:
        if self.split == "meta_dataset":
            return super().protocol
        return "split of Chen et al. (2019)"
