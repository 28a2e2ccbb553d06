"""Draw docs/images/glyphs.png: ten alphabets in rows, and one character by all writers.

Run in the root of the repository: python scripts/draw_glyphs_sheet.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from episodic.datasets import glyphs

ALPHABETS = (4, 5, 6, 9, 10, 15, 17, 20, 21, 24)
LAST_ROW = (4, 7)
"""Alphabet and character of the last row, which shows all writers."""
GAP, ZOOM = 3, 2
FILE = Path(__file__).parents[1] / "docs/images/glyphs.png"


def main() -> None:
    # Writer k draws character k, so that a row also shows how the writers differ.
    rows = [
        glyphs.draw_alphabet(alphabet)[range(glyphs.WRITERS), range(glyphs.WRITERS)]
        for alphabet in ALPHABETS
    ]
    alphabet, character = LAST_ROW
    strips = [_strip(row) for row in [*rows, glyphs.draw_alphabet(alphabet)[character]]]
    sheet = np.concatenate([*strips[:-1], np.zeros_like(strips[0][: glyphs.SIZE // 2]), strips[-1]])
    brightness = np.pad(sheet, GAP).repeat(ZOOM, 0).repeat(ZOOM, 1)
    image = Image.fromarray(255 - brightness // 17 * 17)  # 16 grey levels, for a small file
    image.save(FILE, optimize=True)


def _strip(images: np.ndarray) -> np.ndarray:
    """Place the images `(n, 28, 28)` side by side."""
    return np.concatenate(list(np.pad(images, ((0, 0), (GAP, GAP), (GAP, GAP)))), axis=1)


if __name__ == "__main__":
    main()
