"""TF-IDF features with a nearest-centroid or logistic-regression classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TfidfClassifiers"]

INVERSE_REGULARIZATION = 10.0
"""The parameter C of scikit-learn. On the validation domains of CLINC150, 5-way 1-shot, the
accuracies with 1, 10 and 100 differ by less than 0.1 percentage points."""


@dataclass(frozen=True)
class TfidfClassifiers:
    """Nearest-centroid and logistic-regression classifiers on TF-IDF features of words.

    Args:
        vectorizer: A fitted `sklearn.feature_extraction.text.TfidfVectorizer`.
    """

    vectorizer: Any

    @classmethod
    def fit(cls, sentences: Sequence[str]) -> TfidfClassifiers:
        """Fit the word weights on sentences of the training classes."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        return cls(TfidfVectorizer(sublinear_tf=True).fit(sentences))

    def predict(
        self, support: Sequence[str], labels: NDArray[np.int64], query: Sequence[str]
    ) -> dict[str, NDArray[np.int64]]:
        """Predict the classes of a query set.

        Args:
            support: The sentences of the support set.
            labels: Their classes.
            query: The sentences of the query set.

        Returns:
            Predicted labels, keyed by classifier name.
        """
        from sklearn.linear_model import LogisticRegression

        x, q = (self.vectorizer.transform(texts).toarray() for texts in (support, query))
        classes = np.unique(labels)
        means = np.stack([x[labels == c].mean(0) for c in classes])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        # With L2 regularization the solution lies in the span of the support set (representer
        # theorem), so the problem is solved in a basis of that much smaller space.
        basis, coordinates = np.linalg.qr(x.T)
        regression = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=1000)
        regression.fit(coordinates.T, labels)
        return {
            "tfidf_centroid": classes[(q @ means.T).argmax(1)],
            "tfidf_logistic": regression.predict(q @ basis),
        }
