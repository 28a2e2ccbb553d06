"""EuroSAT: satellite images of 10 kinds of land use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.folder import SplitFractions
from episodic.datasets.sources.photographs import ImageSize, RandomlySplitPhotographs

__all__ = ["EuroSAT"]


@dataclass(frozen=True)
class EuroSAT(RandomlySplitPhotographs):
    """27,000 satellite images of 10 kinds of land use, in red, green and blue.

    The literature tests on all classes and trains on none. Here the classes are split at random, so
    that the dataset can be trained on. With three test classes, episodes have at most three ways.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized, 64 in the archive.
        split_fractions: Fractions of the classes for training, validation and test.

    Patrick Helber et al.: EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and
    Land Cover Classification, 2019. https://arxiv.org/abs/1709.00029
    """

    size: ImageSize = 64
    split_fractions: SplitFractions = (0.4, 0.3, 0.3)

    license = (
        "EuroSAT, https://github.com/phelber/eurosat, MIT License, Patrick Helber et al. 2019; "
        "contains Copernicus Sentinel data."
    )
    name = "eurosat"
    archives = (
        Archive(
            "EuroSAT.zip",
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
            "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            "c8fa014336c82ac7804f0398fcb19387",
            1 << 30,
        ),
    )
    image_pattern = r"2750/(\w+)/\1_\d+\.jpg"

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        return lambda name: name.split("/")[1]
