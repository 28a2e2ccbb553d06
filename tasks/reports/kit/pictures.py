"""Examples as a page shows them: images as one PNG a group, a sheet of equal cells that the page cuts up; sentences as lines."""

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


@dataclass(frozen=True)
class Sheet:
    """uri: PNG as a data address; width, height: of one cell in pixels; columns, rows: cells; ink: one channel, dark on light."""

    uri: str
    width: int
    height: int
    columns: int
    rows: int
    ink: bool

    @classmethod
    def of(cls, images: np.ndarray, rows: Sequence[int]) -> Sheet:
        """images: uint8 `(N, C, H, W)`, ink 255 on 0 if C is 1; rows: which of them, in the order of the cells."""
        cells = np.asarray(images[np.asarray(rows, np.int64)])
        n, channels, height, width = cells.shape
        columns = min(COLUMNS, max(n, 1))
        lines = max(1, -(-n // columns))
        sheet = np.zeros((lines * columns, channels, height, width), np.uint8)
        sheet[:n] = cells
        pixels = (
            sheet.reshape(lines, columns, channels, height, width)
            .transpose(0, 3, 1, 4, 2)
            .reshape(lines * height, columns * width, channels)
        )
        ink = channels == 1
        return cls(
            _png(255 - pixels[..., 0] if ink else pixels), width, height, columns, lines, ink
        )

    def place(self, cell: int) -> tuple[int, int]:
        """Column and row of a cell."""
        return cell % self.columns, cell // self.columns


@dataclass(frozen=True)
class Lines:
    """lines: the sentences, by cell"""

    lines: list[str]


Examples = np.ndarray | list[str]
"""Images uint8 `(N, C, H, W)` or sentences, by row."""


def shown(examples: Examples, rows: Sequence[int]) -> Sheet | Lines:
    """The examples of `rows`, in the order of the cells."""
    return (
        Lines([examples[row] for row in rows])
        if isinstance(examples, list)
        else Sheet.of(examples, rows)
    )


SMALL = 40
"""Pixels that a picture on a map has at most."""


def small(images: np.ndarray, rows: Sequence[int]) -> list[str]:
    """Each of `rows` as a PNG of its own, a data address; of one channel as dark ink on nothing, so that what lies below shows."""
    from PIL import Image

    made = []
    for row in rows:
        pixels = np.asarray(images[row])
        if len(pixels) == 1:
            ink = np.zeros((*pixels.shape[1:], 2), np.uint8)
            ink[..., 1] = pixels[0]
            made.append(_png(ink))
            continue
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        picture.thumbnail((SMALL, SMALL))
        made.append(_png(np.asarray(picture)))
    return made


def file(meta: dict[str, Any]) -> str:
    """Which file of data/prepared holds them, from its meta.json."""
    return "texts.parquet" if meta.get("inputs", {}).get("kind") == "text" else "images.npy"


def read(path: Path) -> Examples:
    """Of such a file; images stay in it."""
    return (
        pd.read_parquet(path)["text"].to_list()
        if path.suffix == ".parquet"
        else np.load(path, mmap_mode="r", allow_pickle=False)
    )


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
