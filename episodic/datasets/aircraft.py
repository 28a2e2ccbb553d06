"""FGVC-Aircraft: photographs of 100 variants of aircraft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.photographs import Box, Photographs

__all__ = ["Aircraft"]

FOLDER = "fgvc-aircraft-2013b/data"
BOXES = f"{FOLDER}/images_box.txt"
VARIANTS = (f"{FOLDER}/images_variant_trainval.txt", f"{FOLDER}/images_variant_test.txt")


@dataclass(frozen=True)
class Aircraft(Photographs):
    """100 variants of aircraft with 100 photographs each, 70 / 15 / 15 classes.

    Images are cropped to the box of the aircraft, as in Meta-Dataset, which removes the line of
    text below the photograph.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.

    Subhransu Maji et al.: Fine-Grained Visual Classification of Aircraft, 2013.
    https://arxiv.org/abs/1306.5151
    """

    license = (
        "FGVC-Aircraft, https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/, Subhransu Maji et "
        "al. 2013, for non-commercial research."
    )
    name = "aircraft"
    archives = (
        Archive(
            "fgvc-aircraft-2013b.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            "d4acdd33327262359767eeaa97a4f732",
            4 << 30,
        ),
    )
    image_pattern = rf"{FOLDER}/images/\d+\.jpg"
    label_files = (BOXES, *VARIANTS)

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        lines = (line for name in VARIANTS for line in files[name].decode().splitlines() if line)
        variants = dict(line.strip().split(" ", 1) for line in lines)
        return lambda name: variants[name.rpartition("/")[2].removesuffix(".jpg")]

    def find_boxes(self, files: dict[str, bytes]) -> dict[str, Box]:
        boxes = {}
        for line in files[BOXES].decode().splitlines():
            if line:
                number, *corners = line.split()
                left, top, right, bottom = map(int, corners)
                # The pixels of the file are counted from 1, and include the last one.
                boxes[f"{FOLDER}/images/{number}.jpg"] = (left - 1, top - 1, right, bottom)
        return boxes
