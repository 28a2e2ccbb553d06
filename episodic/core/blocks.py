"""Images in files, read and written block by block: all of them may be larger than memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "iterate_blocks", "save_images"]

BLOCK = 256
"""Images that are in memory at a time."""


def save_images(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> None:
    """Write images to an npy file, holding one block of them in memory.

    Args:
        path: The file.
        shape: Shape of all images, `(N, C, H, W)`.
        blocks: The images in the order of their rows, uint8 `(n, C, H, W)` each.

    Raises:
        ValueError: The blocks do not have `N` images of this shape.
    """
    count = 0
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8))}
        np.lib.format.write_array_header_1_0(
            file, header | {"fortran_order": False, "shape": shape}
        )
        for block in blocks:
            if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
                raise ValueError(f"a block is {block.dtype} {block.shape}, not uint8 {shape}")
            file.write(np.ascontiguousarray(block).data)
            count += len(block)
    if count != shape[0]:
        raise ValueError(f"the blocks have {count} images, not {shape[0]}")


def iterate_blocks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield blocks of up to `BLOCK` rows.

    The pages of a memory-mapped array count towards resident memory once they are read. Those of a
    block are released after it.

    Args:
        images: An array `(N, ...)`, which may be memory-mapped.
    """
    for start in range(0, len(images), BLOCK):
        yield images[start : start + BLOCK]
        _release_pages(images)


def _release_pages(images: NDArray[np.uint8]) -> None:
    """Release the resident pages of an unmodified memory map. The next access reads the file."""
    file = images.base
    if isinstance(images, np.memmap) and images.mode == "r" and isinstance(file, mmap.mmap):
        file.madvise(mmap.MADV_DONTNEED)
