"""Examples on a page: images as one sprite sheet per figure, texts unchanged."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = 16
"""Columns of a sprite sheet."""

THUMBNAIL = 40
"""Maximum size of an image on a map in pixels."""

Examples = np.ndarray | list[str]
"""Images uint8 `(N, C, H, W)`, or N texts."""


@dataclass(frozen=True)
class SpriteSheet:
    """A sprite sheet: images of equal size in one PNG.

    Attributes:
        uri: The PNG as a data URI.
        width: Width of an image in pixels.
        height: Height of an image in pixels.
        columns: Images per row.
        rows: Rows of images.
        invertible: Whether the images have one channel. They are dark on light here, and
            inverted in the dark theme.
    """

    uri: str
    width: int
    height: int
    columns: int
    rows: int
    invertible: bool

    @classmethod
    def build(cls, images: np.ndarray, indices: Sequence[int]) -> SpriteSheet:
        """Build the sheet of the selected images.

        Args:
            images: uint8 `(N, C, H, W)`. Images with one channel are light on dark.
            indices: Indices of the images, in the order of the cells.
        """
        cells = np.asarray(images[np.asarray(indices, np.int64)])
        n, channels, height, width = cells.shape
        columns = min(COLUMNS, max(n, 1))
        rows = max(1, -(-n // columns))
        sheet = np.zeros((rows * columns, channels, height, width), np.uint8)
        sheet[:n] = cells
        pixels = (
            sheet.reshape(rows, columns, channels, height, width)
            .transpose(0, 3, 1, 4, 2)
            .reshape(rows * height, columns * width, channels)
        )
        invertible = channels == 1
        png = _encode_png(255 - pixels[..., 0] if invertible else pixels)
        return cls(png, width, height, columns, rows, invertible)

    def locate(self, cell: int) -> tuple[int, int]:
        """Return the column and the row of a cell."""
        return cell % self.columns, cell // self.columns


@dataclass(frozen=True)
class TextList:
    """Texts instead of a sprite sheet.

    Attributes:
        texts: The texts by cell.
    """

    texts: list[str]


def build_sheet(examples: Examples, indices: Sequence[int]) -> SpriteSheet | TextList:
    """Return the selected examples for a page, in the order of `indices`."""
    if isinstance(examples, list):
        return TextList([examples[index] for index in indices])
    return SpriteSheet.build(examples, indices)


class ExampleCollector:
    """Collects the examples of several classes for one sheet.

    Args:
        classes: The classes with their `count`, in the order of the examples.
        per_class: Number of examples to take from each class.
    """

    def __init__(self, classes: pd.DataFrame, per_class: int):
        self.counts = classes["count"].to_numpy()
        self.starts = find_first_examples(classes)
        self.per_class = per_class
        self.indices: list[int] = []

    def add_class(self, row: int) -> list[int]:
        """Add the first examples of a class and return their cells."""
        first, start = len(self.indices), int(self.starts[row])
        self.indices += range(start, start + min(self.per_class, int(self.counts[row])))
        return list(range(first, len(self.indices)))


def find_first_examples(classes: pd.DataFrame) -> np.ndarray:
    """Return the index of the first example of each class."""
    return (classes["count"].cumsum() - classes["count"]).to_numpy()


def encode_thumbnails(images: np.ndarray, indices: Sequence[int]) -> list[str]:
    """Return the selected images as small PNGs, each a data URI.

    Images with one channel become dark on a transparent background.
    """
    from PIL import Image

    thumbnails = []
    for index in indices:
        pixels = np.asarray(images[index])
        if len(pixels) == 1:
            black_alpha = np.zeros((*pixels.shape[1:], 2), np.uint8)
            black_alpha[..., 1] = pixels[0]
            thumbnails.append(_encode_png(black_alpha))
            continue
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        thumbnails.append(_encode_png(np.asarray(image)))
    return thumbnails


def find_file_name(meta: dict[str, Any]) -> str:
    """Return the name of the file in data/prepared that contains the examples.

    Args:
        meta: meta.json of data/prepared.
    """
    inputs = meta.get("inputs", {})
    if inputs.get("kind") == "text":
        return "texts.parquet"
    return "thumbnails.npy" if "encoder" in inputs else "images.npy"


def read_examples(path: Path) -> Examples:
    """Read the examples of data/prepared. Images are memory-mapped."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)["text"].to_list()
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _encode_png(pixels: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
