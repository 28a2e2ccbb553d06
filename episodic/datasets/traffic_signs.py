"""GTSRB: photographs of 43 German traffic signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.photographs import RandomlySplitPhotographs

__all__ = ["TrafficSigns"]

FOLDER = "GTSRB/Final_Training/Images"


@dataclass(frozen=True)
class TrafficSigns(RandomlySplitPhotographs):
    """39,209 photographs of 43 German traffic signs, the final training set of GTSRB.

    Meta-Dataset tests on all classes and trains on none. Here the classes are split at random, so
    that the dataset can be trained on.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.
        split_fractions: Fractions of the classes for training, validation and test.

    Johannes Stallkamp et al.: Man vs. computer: Benchmarking machine learning algorithms for
    traffic sign recognition, Neural Networks 32 (2012). https://benchmark.ini.rub.de
    """

    license = (
        "GTSRB, https://benchmark.ini.rub.de, Johannes Stallkamp et al. 2012; no license is stated."
    )
    name = "traffic_signs"
    archives = (
        Archive(
            "GTSRB_Final_Training_Images.zip",
            "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
            "GTSRB_Final_Training_Images.zip",
            "f33fd80ac59bff73c82d25ab499e03a3",
            1 << 30,
        ),
    )
    image_pattern = rf"{FOLDER}/\d{{5}}/\d+_\d+\.ppm"

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        names = {int(c.name[:2]): c.name for c in self.list_classes()}
        return lambda name: names[int(name.split("/")[3])]
