"""Baselines of rating prediction from items that are rated alike, and what all baselines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from episodic.data.factorization import RatingRows

__all__ = [
    "MAX_ITEMS",
    "Ease",
    "ItemNeighbours",
    "Predictor",
    "Ratings",
    "fit_ease",
    "item_similarities",
]

OFFSET_DAMPING = 5.0
"""Number of ratings without deviation that are added to those of each training user."""

MIN_COMMON = 50.0
"""Number of common raters at which the similarity of two items is halved."""

MAX_ITEMS = 4_000
"""Number of items above which baselines with a matrix of items by items are left out."""


@dataclass(frozen=True)
class Ratings:
    """The ratings of one user, in chronological order.

    Args:
        x: Numbers of features, int64 `(n, fields, features)`, 0 for "no feature". The first feature
            of the first field is the item, 0 if no training user rated it.
        values: The ratings `(n,)`.
    """

    x: np.ndarray
    values: np.ndarray

    @property
    def items(self) -> np.ndarray:
        """Item numbers `(n,)`."""
        items: np.ndarray = self.x[:, 0, 0]
        return items

    def first(self, n: int) -> Ratings:
        """Return the first `n` ratings."""
        return Ratings(self.x[:n], self.values[:n])


class Predictor(Protocol):
    """A fitted baseline."""

    def predict(self, support: Ratings, x: np.ndarray) -> np.ndarray:
        """Predict the ratings of a user, or scores to rank items by.

        Args:
            support: The known ratings of the user.
            x: The examples to rate `(n, fields, features)`.

        Returns:
            `(n,)`.
        """


@dataclass(frozen=True)
class ItemNeighbours(Predictor):
    """The prediction of another baseline, plus the errors that it makes on similar items.

        prediction_i = base_i + sum_j s_ij (y_j - base_j) / (sum_j |s_ij| + shrinkage)

    Args:
        base: The other baseline, such as the item mean plus user offset.
        similarity: Similarities s of items `(items, items)`, 0 for unknown ones.
        shrinkage: Constant in the denominator.

    Source: Sarwar, Karypis, Konstan, Riedl: Item-based Collaborative Filtering Recommendation
    Algorithms, WWW 2001. Similarities are shrunk as in Koren, Bell: Advances in Collaborative
    Filtering, 2011.
    """

    base: Predictor
    similarity: np.ndarray
    shrinkage: float

    def predict(self, support: Ratings, x: np.ndarray) -> np.ndarray:
        error = support.values - self.base.predict(support, support.x)
        asked, known = (
            _known_items(items, len(self.similarity)) for items in (x[:, 0, 0], support.items)
        )
        s = self.similarity[asked[:, None], known[None]]
        predicted: np.ndarray = self.base.predict(support, x)
        predicted = predicted + s @ error / (np.abs(s).sum(1) + self.shrinkage)
        return predicted


@dataclass(frozen=True)
class Ease(Predictor):
    """A linear model of the items that a user likes, which ranks items.

    Args:
        weights: `(items, items)` with a diagonal of 0.
        threshold: The lowest rating that counts as liking.

    Source: Harald Steck: Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019.
    https://arxiv.org/abs/1905.03375
    """

    weights: np.ndarray
    threshold: float

    def predict(self, support: Ratings, x: np.ndarray) -> np.ndarray:
        liked = support.items[support.values >= self.threshold]
        known, asked = (_known_items(items, len(self.weights)) for items in (liked, x[:, 0, 0]))
        scores: np.ndarray = self.weights[known][:, asked].sum(0)
        return scores


def _known_items(items: np.ndarray, size: int) -> np.ndarray:
    """Return item numbers, 0 for items above those of the training users."""
    return np.where(items < size, items, 0)


def _dense(rows: RatingRows, values: np.ndarray, items: int) -> np.ndarray:
    matrix = np.zeros((rows.users, items))
    matrix[rows.user, rows.x[:, 0, 0]] = values
    return matrix


def item_similarities(rows: RatingRows, means: np.ndarray, items: int) -> np.ndarray:
    """Compute shrunk cosine similarities of the deviations from item mean and user offset."""
    deviation = rows.y - means[rows.x[:, 0, 0]]
    offset = np.bincount(rows.user, deviation) / (np.bincount(rows.user) + OFFSET_DAMPING)
    values = _dense(rows, deviation - offset[rows.user], items)
    rated = _dense(rows, np.ones(len(rows.y)), items)
    product, common = values.T @ values, rated.T @ rated
    norm = np.sqrt(np.diag(product))
    cosine = product / np.maximum(norm[:, None] * norm[None], 1e-12)
    similarity: np.ndarray = cosine * common / (common + MIN_COMMON)
    similarity[0] = similarity[:, 0] = 0
    return similarity


def fit_ease(rows: RatingRows, items: int, strengths: Sequence[float]) -> list[Ease]:
    """Fit EASE with every regularization strength; a rating above the mean counts as liking."""
    threshold = float(rows.y.mean())
    liked = _dense(rows, (rows.y >= threshold).astype(np.float64), items)
    gram = liked.T @ liked
    models = []
    for strength in strengths:
        inverse = np.linalg.inv(gram + strength * np.eye(items))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        models.append(Ease(weights, threshold))
    return models
