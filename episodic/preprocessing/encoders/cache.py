"""A cache of features by image and encoder, shared by all checkouts.

DVC restores the output of a stage as a whole. This cache holds single images, so a dataset in which
a few images changed is encoded quickly. It can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from episodic.core.files import cache_folder

__all__ = ["FeatureCache"]

MAX_VARIABLES = 500
"""Keys per query."""

WAIT_SECONDS = 60.0
"""How long to wait for another process that writes."""

VERSION = 2
"""To be raised when features are computed in a way that rounds differently."""


class FeatureCache:
    """Features of single images in a SQLite file.

    The file is `features/DIGEST-VERSIONS.sqlite` in the cache folder. Its name contains `VERSION`,
    the version of torch and the vector instructions of the processor, because features depend on
    them in the last digits.

    Args:
        digest: Digest of the encoder.
        width: Number of features per image.
    """

    def __init__(self, digest: str, width: int) -> None:
        capability = torch.backends.cpu.get_cpu_capability().replace(" ", "")
        name = f"{digest[:16]}-{VERSION}-{torch.__version__}-{capability}.sqlite"
        self.path = cache_folder() / "features" / name
        self.width = width
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect().close()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self.path.unlink()  # damaged: it holds nothing that cannot be computed again
            self._connect().close()

    @staticmethod
    def key(pixels: NDArray[np.uint8]) -> bytes:
        """Compute the key of an image, the SHA-256 of its pixels."""
        return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the features `(width,)` of those images that are known, by their key."""
        found = {}
        with closing(self._connect()) as connection:
            for start in range(0, len(keys), MAX_VARIABLES):
                some = keys[start : start + MAX_VARIABLES]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, features FROM features WHERE key IN ({marks})"  # noqa: S608
                for key, content in connection.execute(query, some):
                    vector = np.frombuffer(content, "<f4").astype(np.float32)
                    if vector.shape == (self.width,):
                        found[key] = vector
        return found

    def write(self, features: dict[bytes, NDArray[np.float32]]) -> None:
        """Store the features of images by their key."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in features.items()]
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(Path(self.path), timeout=WAIT_SECONDS)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, features BLOB NOT NULL)"
        )
        return connection
