"""Images in a file, read as they are asked for."""

from __future__ import annotations

import os
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
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
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
            result[place] = np.frombuffer(os.pread(self._file, self._size, self._start + row * self._size), np.uint8)
        return torch.from_numpy(result).view(-1, *self.shape[1:])
