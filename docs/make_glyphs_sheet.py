"""Draws docs/glyphs.png: ten of the invented alphabets, a row each, and one character by all its drawers.

Run from the repository's root: python -m docs.make_glyphs_sheet
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from episodic.datasets import glyphs

ALPHABETS = (4, 5, 6, 9, 10, 15, 17, 20, 21, 24)
DRAWN = (4, 7)
"""Alphabet and character of the last row."""
GAP, ZOOM = 3, 2


def main() -> None:
    # Character k of a row is by drawer k, so that a row shows the hands of an alphabet as well.
    rows = [
        glyphs.draw_alphabet(alphabet)[range(glyphs.DRAWERS), range(glyphs.DRAWERS)]
        for alphabet in ALPHABETS
    ]
    alphabet, character = DRAWN
    strips = [_strip(row) for row in [*rows, glyphs.draw_alphabet(alphabet)[character]]]
    sheet = np.concatenate([*strips[:-1], np.zeros_like(strips[0][: glyphs.SIZE // 2]), strips[-1]])
    ink = np.pad(sheet, GAP).repeat(ZOOM, 0).repeat(ZOOM, 1)
    picture = Image.fromarray(255 - ink // 17 * 17)  # 16 greys, for a small file
    picture.save(Path(__file__).with_name("glyphs.png"), optimize=True)


def _strip(images: np.ndarray) -> np.ndarray:
    """`(n, 28, 28)` -> one picture, side by side."""
    return np.concatenate(list(np.pad(images, ((0, 0), (GAP, GAP), (GAP, GAP)))), axis=1)


if __name__ == "__main__":
    main()
