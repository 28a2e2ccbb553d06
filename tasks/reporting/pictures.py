"""Images of the data as one PNG a group: a sheet of equal cells that the page cuts up, pixel for pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        return cls(_png(255 - pixels[..., 0] if ink else pixels), width, height, columns, lines, ink)

    def place(self, cell: int) -> tuple[int, int]:
        """Column and row of a cell."""
        return cell % self.columns, cell // self.columns


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
