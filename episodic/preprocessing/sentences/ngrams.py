"""Hashed n-grams of characters, weighted by TF-IDF.

    x_f = (1 + log count_f) idf_f, scaled to length 1
    idf_f = log((1 + N) / (1 + N_f)) + 1

Here f is the hash of a run of 2 to 5 characters within a word (scikit-learn's HashingVectorizer), N
the number of sentences of the training classes, and N_f the number of those that contain f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.sentences.base import SentencePreprocessor

if TYPE_CHECKING:
    from episodic.data.storage import SparseRows

__all__ = [
    "NgramPreprocessor",
    "fit_idf",
]


@dataclass(frozen=True)
class NgramPreprocessor(SentencePreprocessor):
    """Preprocessor that counts the n-grams of sentences.

    Args:
        input: Shape of one example, `(size,)`.
        idf: The weight of each n-gram, `(size,)`.
    """

    idf: NDArray[np.float64]

    def encode(
        self, sentences: Sequence[str], progress: ProgressCallback = no_progress
    ) -> SparseRows:
        # Here so that the stage that downloads sentences does not depend on how they are stored.
        from episodic.data.storage import SparseRows

        counts = _count_ngrams(sentences, self.input[0])
        values = (1 + np.log(counts.data)) * self.idf[counts.indices]
        row = np.repeat(np.arange(len(sentences)), np.diff(counts.indptr))
        length = np.sqrt(np.bincount(row, values**2, minlength=len(sentences)))[row]
        values = (values / np.maximum(length, 1e-12)).astype(np.float32)
        return SparseRows(
            torch.from_numpy(counts.indptr.astype(np.int64)),
            torch.from_numpy(counts.indices.astype(np.int32)),
            torch.from_numpy(values),
            self.input[0],
        )


def fit_idf(sentences: Sequence[str], size: int) -> list[float]:
    """Compute the weight of each of `size` n-grams from the sentences of the training classes."""
    counts = _count_ngrams(sentences, size)
    frequency = np.bincount(counts.indices, minlength=size)
    idf = np.log((1 + len(sentences)) / (1 + frequency)) + 1
    return [round(float(weight), 4) for weight in idf]


def _count_ngrams(sentences: Sequence[str], size: int) -> Any:
    """Return the counts of n-grams, a sparse SciPy matrix `(n, size)`."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=size,
        norm=None,
        alternate_sign=False,
        analyzer="char_wb",
        ngram_range=(2, 5),
        dtype=np.float32,
    )
    counts = vectorizer.transform(sentences)
    counts.sort_indices()
    return counts
