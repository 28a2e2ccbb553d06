"""DTD: photographs of 47 kinds of textures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.photographs import Photographs

__all__ = ["DTD"]


@dataclass(frozen=True)
class DTD(Photographs):
    """47 kinds of textures with 120 photographs each, 33 / 7 / 7 classes.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.

    Mircea Cimpoi et al.: Describing Textures in the Wild, CVPR 2014.
    https://arxiv.org/abs/1311.3618
    """

    license = (
        "Describable Textures Dataset, https://www.robots.ox.ac.uk/~vgg/data/dtd/, Mircea Cimpoi "
        "et al. 2014, for research purposes."
    )
    name = "dtd"
    archives = (
        Archive(
            "dtd-r1.0.1.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            "fff73e5086ae6bdbea199a49dfb8a4c1",
            2 << 30,
        ),
    )
    image_pattern = r"dtd/images/[^/]+/[^/.][^/]*\.jpg"

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        return lambda name: name.split("/")[2]
