"""Storage of examples: images that are read from a file on demand, and sparse features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from episodic.core.blocks import iterate_blocks, save_images

__all__ = [
    "THUMBNAILS",
    "Examples",
    "SparseRows",
    "StoredImages",
    "load_examples",
    "read_examples",
    "save_examples",
]

THUMBNAILS = "thumbnails.npy"
"""File of small images, uint8 `(N, C, H, W)`, of examples that are features of images."""


class StoredImages:
    """Images in an npy file of uint8 `(N, C, H, W)`, indexed as `stored[rows]` with int64 rows.

    Rows are read individually rather than memory-mapped, because touched pages of a memory map
    count towards resident memory. Rows that are read often stay in the operating system's cache.

    Args:
        path: The file.

    Raises:
        ValueError: The file does not contain uint8 in C order.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path):
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, fortran_order, dtype = read_header(file)
            self._start = file.tell()
        if fortran_order or dtype != np.uint8:
            raise ValueError(f"{path} must contain uint8 in C order; write it with numpy.save")
        self._file = os.open(path, os.O_RDONLY)
        self._row_bytes = int(np.prod(self.shape[1:]))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        images = np.empty((len(rows), self._row_bytes), np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            # pread, since forked processes share the position in the file.
            content = os.pread(self._file, self._row_bytes, self._start + row * self._row_bytes)
            image[:] = np.frombuffer(content, np.uint8)
        return torch.from_numpy(images).view(-1, *self.shape[1:])


@dataclass(frozen=True)
class SparseRows:
    """Rows of a sparse matrix (CSR), indexed as `stored[rows]`: float32 `(n, width)`.

    Attributes:
        starts: First entry of each row, and the number of entries, int64 `(N + 1,)`.
        columns: Column of each entry, int32 `(entries,)`.
        values: Value of each entry, float32 `(entries,)`.
        width: Number of columns.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    width: int

    @property
    def device(self) -> torch.device:
        """Device of the rows."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.starts) - 1

    def to(self, device: torch.device) -> SparseRows:
        """Move the rows to a device."""
        return SparseRows(
            self.starts.to(device), self.columns.to(device), self.values.to(device), self.width
        )

    def __getitem__(self, rows: Tensor) -> Tensor:
        first, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        row = torch.arange(len(rows), device=self.device).repeat_interleave(counts)
        entry = (
            torch.arange(len(row), device=self.device)
            - (counts.cumsum(0) - counts)[row]
            + first[row]
        )
        result = torch.zeros(len(rows), self.width, device=self.device)
        result[row, self.columns[entry].long()] = self.values[entry]
        return result


Examples = Tensor | StoredImages | SparseRows
"""Examples by row: uint8 images (0 to 255), float32 features or int64 tokens."""

SPARSE_FILES = {
    "starts": "examples-starts.npy",
    "columns": "examples-places.npy",
    "values": "examples-values.npy",
}
"""The file of each tensor of `SparseRows`."""


def save_examples(folder: Path, examples: np.ndarray | Tensor | SparseRows) -> None:
    """Write examples in the format that `load_examples` reads.

    Args:
        folder: An existing folder.
        examples: Images as a NumPy array, written to `images.npy`; others are written to
            `examples*.npy`.
    """
    if isinstance(examples, SparseRows):
        for name, file in SPARSE_FILES.items():
            np.save(folder / file, getattr(examples, name).numpy())
    elif isinstance(examples, Tensor):
        np.save(folder / "examples.npy", examples.numpy())
    else:
        save_images(folder / "images.npy", examples.shape, iterate_blocks(examples))


def read_examples(examples: Examples, rows: Tensor) -> Tensor:
    """Read examples as a model takes them.

    Args:
        examples: Examples by row. Images, uint8, become float32 from 0 to 1.
        rows: Rows of any shape, int64.

    Returns:
        `(*rows.shape, *input)`.
    """
    x = examples[rows.flatten()]
    x = x.float().div_(255) if x.dtype == torch.uint8 else x
    return torch.unflatten(x, 0, rows.shape)


def load_examples(folder: Path, input: Sequence[int], device: torch.device) -> Examples:
    """Read the examples that `save_examples` wrote.

    Args:
        folder: The folder.
        input: Shape of one example.
        device: Device of the examples. On the CPU images stay in their file.
    """
    if (folder / "images.npy").exists():
        path = folder / "images.npy"
        return (
            StoredImages(path)
            if device.type == "cpu"
            else torch.from_numpy(np.load(path, mmap_mode="c")).to(device)
        )
    if (folder / "examples.npy").exists():
        return torch.from_numpy(np.load(folder / "examples.npy")).to(device)
    tensors = {
        name: torch.from_numpy(np.load(folder / file)).to(device)
        for name, file in SPARSE_FILES.items()
    }
    return SparseRows(**tensors, width=input[0])
