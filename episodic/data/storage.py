"""Examples of many classes, by row: images in a file, read as they are asked for, and sparse features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class StoredImages:
    """The rows of an npy file of uint8 `(N, C, H, W)`, as `stored[rows]` for int64 rows.

    Read row by row, so that nothing of the file counts as this process's memory; of a memory-mapped file all that was ever touched
    does. What is read often stays in the system's cache.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path):
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, fortran, dtype = read(file)
            self._start = file.tell()
        if fortran or dtype != np.uint8:
            raise ValueError(f"{path} does not hold bytes in rows")
        self._file = os.open(path, os.O_RDONLY)
        self._size = int(np.prod(self.shape[1:]))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        result = np.empty((len(rows), self._size), np.uint8)
        for place, row in enumerate(rows.tolist()):
            # pread, since processes that were forked share the file's position.
            result[place] = np.frombuffer(
                os.pread(self._file, self._size, self._start + row * self._size), np.uint8
            )
        return torch.from_numpy(result).view(-1, *self.shape[1:])


@dataclass(frozen=True)
class SparseRows:
    """Rows of mostly zeros, as `stored[rows]` float32 `(n, width)`.

    starts: int64 `(N + 1,)`, where each row's entries begin; places: int32, their columns; values: float32
    """

    starts: Tensor
    places: Tensor
    values: Tensor
    width: int

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: Tensor) -> Tensor:
        first, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        row = torch.arange(len(rows), device=self.device).repeat_interleave(counts)
        entry = (
            torch.arange(len(row), device=self.device)
            - (counts.cumsum(0) - counts)[row]
            + first[row]
        )
        result = torch.zeros(len(rows), self.width, device=self.device)
        result[row, self.places[entry].long()] = self.values[entry]
        return result


Rows = Tensor | StoredImages | SparseRows
"""Examples by row: uint8 images (0 to 255), float32 features or int64 tokens."""

PARTS = ("starts", "places", "values")


def save(folder: Path, examples: np.ndarray | Tensor | SparseRows) -> None:
    """Writes examples for `load`: images as `images.npy`, others as `examples*.npy`."""
    if isinstance(examples, SparseRows):
        for part in PARTS:
            np.save(folder / f"examples-{part}.npy", getattr(examples, part).numpy())
    elif isinstance(examples, Tensor):
        np.save(folder / "examples.npy", examples.numpy())
    else:
        np.save(folder / "images.npy", examples)


def load(folder: Path, input: Sequence[int], device: torch.device) -> Rows:
    """What `save` wrote, of examples of shape `input`: images are left in their file on the CPU, and copied to another device."""
    if (folder / "images.npy").exists():
        path = folder / "images.npy"
        return (
            StoredImages(path)
            if device.type == "cpu"
            else torch.from_numpy(np.load(path, mmap_mode="c")).to(device)
        )
    if (folder / "examples.npy").exists():
        return torch.from_numpy(np.load(folder / "examples.npy")).to(device)
    starts, places, values = (
        torch.from_numpy(np.load(folder / f"examples-{part}.npy")).to(device) for part in PARTS
    )
    return SparseRows(starts, places, values, input[0])
