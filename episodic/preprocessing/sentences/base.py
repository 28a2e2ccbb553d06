"""Base class of sentence preprocessors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.base import InputError, require_sequence, shorten_errors
from episodic.preprocessing.numbers import to_array
from episodic.preprocessing.sentences.files import read_lines

if TYPE_CHECKING:
    from episodic.data.storage import SparseRows

__all__ = [
    "SentencePreprocessor",
    "check_sentences",
]

MAX_CHARACTERS = 100_000
"""Characters that a sentence may have."""


@dataclass(frozen=True)
class SentencePreprocessor:
    """Base class of the preprocessors of sentences.

    Args:
        input: Shape of one example, `(size,)`.
    """

    input: tuple[int, ...]

    example_name = "sentence"

    def __call__(self, x: Any) -> Tensor:
        """Return examples `(n, *input)`.

        Args:
            x: A list of sentences, or an array of examples.

        Raises:
            InputError: Some of `x` are not sentences. All of them are listed.
        """
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype.kind in "buif"):
            return self._convert_array(to_array(x, self.input))
        sentences = check_sentences(require_sequence(x, self.example_name))
        return self.encode(sentences)[torch.arange(len(sentences))]

    def encode(
        self, sentences: Sequence[str], progress: ProgressCallback = no_progress
    ) -> SparseRows | Tensor:
        """Convert sentences to examples, one row per sentence."""
        raise NotImplementedError

    def _convert_array(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(x.astype(np.float32))

    def examples_in_folder(self, folder: Path) -> list[str]:
        """List the lines of the `.txt` files in a folder, file by file, without hidden files."""
        files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == ".txt" and not path.name.startswith(".") and path.is_file()
        )
        return [line for path in files for line in read_lines(path)]

    def examples_in_file(self, path: Path) -> list[str]:
        """List the lines of a file."""
        return read_lines(path)


def check_sentences(x: Sequence[Any]) -> list[str]:
    """Return `x` as a list of sentences.

    Raises:
        InputError: `x` is empty, or some of it are not text, empty or too long; each is named.
    """
    errors = []
    for i, sentence in enumerate(x):
        if not isinstance(sentence, str):
            errors.append(f"example {i} is of type {type(sentence).__name__}, not text")
        elif not sentence.strip():
            errors.append(f"example {i} is empty")
        elif len(sentence) > MAX_CHARACTERS:
            errors.append(
                f"example {i} has {len(sentence):,} characters: a sentence may have at most "
                f"{MAX_CHARACTERS:,}"
            )
    if errors:
        raise InputError("\n".join(shorten_errors(errors)))
    if not len(x):
        raise InputError("x is empty: pass at least one sentence")
    return list(x)
