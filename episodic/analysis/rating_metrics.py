"""Metrics and baselines of rating prediction.

Scores are computed per user, on the query set. All users have equal weight, regardless of their
number of ratings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["METRICS", "RatingBaselines", "Ratings", "score_ratings"]

NDCG_LENGTHS = (1, 3, 10)
"""Lengths of the ranked lists for nDCG."""

METRICS = ("mae", "rmse", *(f"ndcg_{length}" for length in NDCG_LENGTHS))

DAMPING = 5.0
"""Number of ratings at the global mean that are added to each item."""

RANK = 8
"""Number of factors in the matrix factorization, in addition to the user bias."""

SWEEPS = 15
"""Iterations of alternating least squares."""

STRENGTHS = (1.0, 3.0, 10.0, 30.0)
"""Candidate regularization strengths, selected on validation users."""


def score_ratings(truth: np.ndarray, prediction: np.ndarray, lowest: float) -> dict[str, float]:
    """Score the predicted ratings of one user.

    The gain of nDCG is linear, the rating minus `lowest`, and suits any scale. With `2^rating`, as
    in MeLU, only the best item would matter on a scale of 100. Ties among predictions are averaged,
    as in scikit-learn. The nDCG of a user whose ratings are all equal is 1.

    Args:
        truth: The ratings `(n,)`.
        prediction: The predicted ratings `(n,)`.
        lowest: The lowest rating of the scale.

    Returns:
        Mean absolute error, root mean squared error and nDCG, keyed by the names in `METRICS`.

    Source: Järvelin, Kekäläinen: Cumulated gain-based evaluation of IR techniques, 2002.
    """
    from sklearn.metrics import ndcg_score

    error = truth.astype(np.float64) - prediction
    scores = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    gains = np.maximum(truth.astype(np.float64) - lowest, 0.0)
    ordered = len(truth) > 1 and bool(np.ptp(gains) > 0)
    for length in NDCG_LENGTHS:
        scores[f"ndcg_{length}"] = (
            float(ndcg_score(gains[None], prediction[None].astype(np.float64), k=length))
            if ordered
            else 1.0
        )
    return scores


@dataclass(frozen=True)
class Ratings:
    """The ratings of one user, in chronological order.

    Args:
        items: Item numbers, int64 `(n,)`. 0 is an item that no training user rated.
        values: The ratings `(n,)`.
    """

    items: np.ndarray
    values: np.ndarray

    def first(self, n: int) -> Ratings:
        """Return the first `n` ratings."""
        return Ratings(self.items[:n], self.values[:n])


@dataclass(frozen=True)
class RatingBaselines:
    """Baselines without meta-learning, fitted to the training users.

    Args:
        mean: The mean of all ratings.
        item_means: The damped mean of each item, `(items,)`.
        factors: The factors of each item, `(items, 1 + RANK)`. The first is 1, for the user bias.
        shift: Damping of the user bias, in number of ratings.
        strength: Regularization strength of the user factors.
    """

    mean: float
    item_means: np.ndarray
    factors: np.ndarray
    shift: float
    strength: float

    @classmethod
    def fit(
        cls,
        train: Sequence[Ratings],
        validation: Sequence[tuple[Ratings, Ratings]],
        items: int,
        shots: Sequence[int],
    ) -> dict[int, RatingBaselines]:
        """Fit the baselines and choose `shift` and `strength` on validation users.

        Args:
            train: All ratings of each training user.
            validation: The support and the query set of each validation user.
            items: The largest item number plus 1.
            shots: Sizes of the support set.

        Returns:
            The baselines for each size of the support set.
        """
        item, value = (
            np.concatenate([getattr(user, part) for user in train]) for part in ("items", "values")
        )
        mean = float(value.mean())
        counts, sums = np.bincount(item, minlength=items), np.bincount(item, value - mean, items)
        means = mean + sums / (counts + DAMPING)
        means[0] = mean
        candidates = [cls(mean, means, _factorize(train, means, s), 0.0, s) for s in STRENGTHS]
        fitted = {}
        for n in shots:
            users = [(support.first(n), query) for support, query in validation]
            best = min(candidates, key=lambda c: c.mean_squared_error(users, "factorisation"))
            shifted = [replace(best, shift=shift) for shift in (0.0, *STRENGTHS)]
            fitted[n] = min(shifted, key=lambda c: c.mean_squared_error(users, "shifted_item_mean"))
        return fitted

    def mean_squared_error(self, users: Sequence[tuple[Ratings, Ratings]], baseline: str) -> float:
        """Compute the mean squared error of one baseline.

        Args:
            users: The support and the query set of each user.
            baseline: Name of the baseline, a key of the result of `predict`.
        """
        errors = [
            ((query.values - self.predict(support, query.items)[baseline]) ** 2).mean()
            for support, query in users
        ]
        return float(np.mean(errors))

    def predict(self, support: Ratings, query: np.ndarray) -> dict[str, np.ndarray]:
        """Predict the ratings of a user.

        Args:
            support: The known ratings of the user.
            query: The items to rate, int64 `(n,)`.

        Returns:
            Predictions `(n,)`, keyed by baseline.
        """
        deviation = support.values - self.item_means[support.items]
        level = deviation.sum() / (len(deviation) + self.shift)
        user = _solve_ridge(self.factors[support.items], deviation, self.strength)
        return {
            "global_mean": np.full(len(query), self.mean),
            "item_mean": self.item_means[query],
            "shifted_item_mean": self.item_means[query] + level,
            "factorisation": self.item_means[query] + self.factors[query] @ user,
        }


def _factorize(train: Sequence[Ratings], means: np.ndarray, strength: float) -> np.ndarray:
    """Compute item factors by alternating least squares on the deviations from the item means.

    Source: Koren, Bell, Volinsky: Matrix Factorization Techniques for Recommender Systems, 2009,
    with a bias per user.
    """
    items = len(means)
    factors = np.concatenate(
        [np.ones((items, 1)), np.random.default_rng(0).normal(0, 0.1, (items, RANK))], 1
    )
    deviations = [user.values - means[user.items] for user in train]
    number = np.repeat(np.arange(len(train)), [len(user.items) for user in train])
    item, value = np.concatenate([user.items for user in train]), np.concatenate(deviations)
    order = np.argsort(item, kind="stable")
    bounds = np.searchsorted(item[order], np.arange(items + 1))
    users = np.zeros((len(train), 1 + RANK))
    for _ in range(SWEEPS):
        for i, (user, deviation) in enumerate(zip(train, deviations, strict=True)):
            users[i] = _solve_ridge(factors[user.items], deviation, strength)
        for i in range(1, items):
            rows = order[bounds[i] : bounds[i + 1]]
            raters = users[number[rows]]
            factors[i, 1:] = _solve_ridge(raters[:, 1:], value[rows] - raters[:, 0], strength)
    factors[0, 1:] = 0.0
    return factors


def _solve_ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Solve ridge regression: minimize `|x w - y|^2 + strength |w|^2` over `w`."""
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
