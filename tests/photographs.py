"""Photographs for tests: smooth random images, and classes of their variations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def draw_photograph(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw a smooth random image `(width, height)`: noise that is enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def vary_photograph(image: Image.Image, seed: Sequence[int], deviation: float) -> Image.Image:
    """Add normal noise to an image, with this standard deviation in values from 0 to 255."""
    pixels = np.asarray(image, np.float64)
    noise = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def write_photographs(
    folder: Path, classes: Sequence[str], per_class: int, size: tuple[int, int] = (320, 240)
) -> Path:
    """Write `CLASS/I.png`. The photographs of a class are variations of one image."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        image = draw_photograph(label, size)
        for i in range(per_class):
            vary_photograph(image, [label, i], deviation=20).save(folder / name / f"{i}.png")
    return folder
