"""VGG Flower: photographs of 102 kinds of flowers."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from episodic.datasets.base import FetchError
from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.fetch import ARCHIVE_ERRORS
from episodic.datasets.sources.photographs import Photographs

__all__ = ["VGGFlower"]

ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
LABELS = "imagelabels.mat"


@dataclass(frozen=True)
class VGGFlower(Photographs):
    """8,189 photographs of 102 kinds of flowers, 71 / 15 / 16 classes.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.

    Maria-Elena Nilsback, Andrew Zisserman: Automated Flower Classification over a Large Number of
    Classes, 2008. https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
    """

    license = (
        "Oxford 102 Flower, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, Maria-Elena "
        "Nilsback and Andrew Zisserman 2008; no license is stated."
    )
    name = "vgg_flower"
    archives = (
        Archive(
            "102flowers.tgz",
            f"{ADDRESS}/102flowers.tgz",
            "52808999861908f626f3c1f4e79d11fa",
            1 << 30,
        ),
        Archive(LABELS, f"{ADDRESS}/{LABELS}", "e0620be6f572b9609742df49c70aed4d", 1 << 20),
    )
    image_pattern = r"jpg/image_\d{5}\.jpg"
    label_files = (LABELS,)

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        damage = (MatReadError, *ARCHIVE_ERRORS, KeyError, IndexError, TypeError)

        try:
            labels = loadmat(io.BytesIO(files[LABELS]))["labels"].ravel()
        except damage as error:
            raise FetchError(f"{LABELS} cannot be read as a MATLAB file: {error!r}") from error
        names = {int(c.name.split(".")[0]): c.name for c in self.list_classes()}
        # Images and labels are counted from 1.
        return lambda name: names[int(labels[int(name[-9:-4]) - 1])]
