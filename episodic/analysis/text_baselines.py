"""Classical text classifiers as baselines: TF-IDF of words, with class centroids or regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TfidfClassifiers"]

INVERSE_REGULARIZATION = 10.0
"""scikit-learn's C. On the validation domains of CLINC150, 5-way 1-shot, the accuracies with 1, 10
and 100 differ by less than 0.1 points."""


@dataclass(frozen=True)
class TfidfClassifiers:
    """Classifiers on the TF-IDF of words: the nearest class centroid, and logistic regression.

    Args:
        vectorizer: A fitted `sklearn.feature_extraction.text.TfidfVectorizer`.
    """

    vectorizer: Any

    @classmethod
    def fit(cls, sentences: Sequence[str]) -> TfidfClassifiers:
        """Compute the weights of words from the sentences of the training classes."""
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
            The classes of the query set, by the name of the classifier.
        """
        from sklearn.linear_model import LogisticRegression

        x, q = (self.vectorizer.transform(texts).toarray() for texts in (support, query))
        classes = np.unique(labels)
        means = np.stack([x[labels == c].mean(0) for c in classes])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        # With a squared penalty the solution lies in the span of the support set, so that it can be
        # found in a basis of that span, which is much smaller.
        basis, coordinates = np.linalg.qr(x.T)
        regression = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=1000)
        regression.fit(coordinates.T, labels)
        return {
            "tfidf_centroid": classes[(q @ means.T).argmax(1)],
            "tfidf_logistic": regression.predict(q @ basis),
        }
