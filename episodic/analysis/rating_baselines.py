"""Baselines of rating prediction without meta-learning.

Those that predict ratings have one form: a prediction for all users plus ridge regression on the
first ratings of the user, the fold-in. They differ in the two functions of an item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from episodic.analysis.item_similarity import (
    MAX_ITEMS,
    ItemNeighbours,
    Predictor,
    Ratings,
    fit_ease,
    item_similarities,
)
from episodic.analysis.rating_metrics import rank_ratings
from episodic.core import random_numbers
from episodic.data.factorization import (
    RatingRows,
    count_features,
    fit_biases,
    fit_factors,
    sum_features,
)

__all__ = ["FoldIn", "RatingBaselines", "mean_squared_error"]

DAMPING = 5.0
"""Number of ratings at the global mean that are added to each item."""

RANK = 8
"""Number of factors in the matrix factorizations, in addition to the user bias."""

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Candidate regularization strengths, selected on validation users."""

SHIFTS = (0.0, 3.0, 10.0, 30.0)
"""Candidate damping of the bias of a user, in number of ratings."""

NEIGHBOUR_SHRINKAGES = (0.1, 0.3, 1.0, 3.0)
"""Candidate shrinkage of the errors of similar items."""

LIKED_STRENGTHS = (100.0, 300.0, 1000.0)
"""Candidate regularization strengths of EASE."""


@dataclass(frozen=True)
class FoldIn(Predictor):
    """A prediction for all users, plus ridge regression on the ratings of the user.

        w = argmin |y - base(x) - design(x) w|^2 + sum_k penalty_k w_k^2

    Args:
        base: The prediction `(n,)` for examples `(n, fields, features)`.
        design: What the user has weights for `(n, k)`.
        penalty: Strengths of the regularization `(k,)`.
    """

    base: Callable[[np.ndarray], np.ndarray]
    design: Callable[[np.ndarray], np.ndarray]
    penalty: np.ndarray

    def predict(self, support: Ratings, x: np.ndarray) -> np.ndarray:
        a = self.design(support.x)
        weight = np.linalg.solve(
            a.T @ a + np.diag(self.penalty), a.T @ (support.values - self.base(support.x))
        )
        predicted: np.ndarray = self.base(x) + self.design(x) @ weight
        return predicted


@dataclass(frozen=True)
class RatingBaselines:
    """The baselines for one size of the support set.

    Args:
        rating: Those that predict ratings, by name.
        ranking: Those that only rank items, by name.
    """

    rating: Mapping[str, Predictor]
    ranking: Mapping[str, Predictor]

    @classmethod
    def fit(
        cls,
        train: Sequence[Ratings],
        validation: Sequence[tuple[Ratings, Ratings]],
        tokens: int,
        shots: Sequence[int],
    ) -> dict[int, RatingBaselines]:
        """Fit the baselines and choose their regularization on validation users.

        Args:
            train: All ratings of each training user.
            validation: The support and the query set of each validation user.
            tokens: The largest number of a feature plus 1.
            shots: Sizes of the support set.

        Returns:
            The baselines for each size of the support set.
        """
        rows = RatingRows(
            np.concatenate([user.x for user in train]),
            np.concatenate([user.values for user in train]).astype(np.float64),
            np.repeat(np.arange(len(train)), [len(user.values) for user in train]),
        )
        means = _damped_item_means(rows, tokens)
        candidates = _list_candidates(rows, means, tokens)
        items = int(rows.x[:, 0, 0].max()) + 1
        ease = fit_ease(rows, items, LIKED_STRENGTHS) if items <= MAX_ITEMS else []
        similarity = item_similarities(rows, means, items) if items <= MAX_ITEMS else None
        fitted = {}
        for n in shots:
            users = [(support.first(n), query) for support, query in validation]

            def choose(
                choices: Sequence[Predictor], users: Sequence[tuple[Ratings, Ratings]] = users
            ) -> Predictor:
                return min(choices, key=lambda choice: mean_squared_error(choice, users))

            rating = {name: choose(choices) for name, choices in candidates.items()}
            ranking = {}
            if similarity is not None:
                base = rating["shifted_item_mean"]
                rating["neighbours"] = choose(
                    [ItemNeighbours(base, similarity, s) for s in NEIGHBOUR_SHRINKAGES]
                )
                ranking["ease"] = max(ease, key=lambda choice: _mean_ndcg(choice, users))
            fitted[n] = cls(rating, ranking)
        return fitted

    def predict(self, support: Ratings, x: np.ndarray) -> dict[str, np.ndarray]:
        """Predict the ratings of a user, by baseline. Arguments are those of `Predictor`."""
        return {name: baseline.predict(support, x) for name, baseline in self.rating.items()}

    def rank(self, support: Ratings, x: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the scores by which the other baselines rank items, as `predict` does."""
        return {name: baseline.predict(support, x) for name, baseline in self.ranking.items()}


def mean_squared_error(baseline: Predictor, users: Sequence[tuple[Ratings, Ratings]]) -> float:
    """Compute the mean squared error of a baseline.

    Args:
        baseline: The baseline.
        users: The support and the query set of each user.
    """
    errors = [
        ((query.values - baseline.predict(support, query.x)) ** 2).mean()
        for support, query in users
    ]
    return float(np.mean(errors))


def _mean_ndcg(baseline: Predictor, users: Sequence[tuple[Ratings, Ratings]]) -> float:
    scores = [
        rank_ratings(query.values, baseline.predict(support, query.x), query.values.min())
        for support, query in users
    ]
    return float(np.mean([of_user["ndcg_10"] for of_user in scores]))


def _damped_item_means(rows: RatingRows, tokens: int) -> np.ndarray:
    """Compute the mean rating of each item, `(tokens,)`; the global mean for all others."""
    item, mean = rows.x[:, 0, 0], float(rows.y.mean())
    sums, counts = np.bincount(item, rows.y - mean, tokens), np.bincount(item, minlength=tokens)
    means: np.ndarray = mean + sums / (counts + DAMPING)
    return means


def _list_candidates(
    rows: RatingRows, means: np.ndarray, tokens: int
) -> dict[str, list[Predictor]]:
    """Fit every baseline that predicts ratings, for every candidate of its regularization."""
    mean, biases = fit_biases(rows, tokens)

    def item_mean(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = means[x[:, 0, 0]]
        return found

    def feature_mean(x: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = mean + sum_features(x, biases[:, None]).sum((1, 2))
        return predicted

    residual = RatingRows(rows.x, rows.y - feature_mean(rows.x), rows.user)
    factors = fit_factors(residual, tokens, RANK, random_numbers.generator(0, "rating factors"))

    def factorized_mean(x: np.ndarray) -> np.ndarray:
        fields = sum_features(x, factors)
        predicted: np.ndarray = feature_mean(x) + (fields.prod(1).sum(1) if x.shape[1] > 1 else 0)
        return predicted

    of_items = rows.x[:, 0, 1:]
    shared = np.unique(of_items[of_items > 0])

    def offset(x: np.ndarray) -> np.ndarray:
        return np.ones((len(x), 1))

    def features_of_item(x: np.ndarray) -> np.ndarray:
        return np.concatenate([offset(x), count_features(x[:, 0, 1:], shared)], 1)

    def factors_of_item(x: np.ndarray) -> np.ndarray:
        return np.concatenate([offset(x), sum_features(x[:, :1], factors)[:, 0]], 1)

    def fold_in(
        base: Callable[[np.ndarray], np.ndarray],
        design: Callable[[np.ndarray], np.ndarray],
        strengths: Sequence[float] = STRENGTHS,
    ) -> list[Predictor]:
        size = design(rows.x[:1]).shape[1] - 1
        return [
            FoldIn(base, design, np.array([shift] + [strength] * size))
            for strength in strengths
            for shift in SHIFTS
        ]

    # Without features, as in a plain matrix factorization.
    deviation = RatingRows(rows.x[:, :1, :1], rows.y - item_mean(rows.x), rows.user)
    factorized: list[Predictor] = []
    for strength in STRENGTHS:
        generator = random_numbers.generator(0, "rating factors")
        of_item = fit_factors(deviation, tokens, RANK, generator, strength, strength)

        def design(x: np.ndarray, of_item: np.ndarray = of_item) -> np.ndarray:
            return np.concatenate([offset(x), of_item[x[:, 0, 0]]], 1)

        factorized += fold_in(item_mean, design, strengths=[strength])
    return {
        "global_mean": [FoldIn(lambda x: np.full(len(x), mean), _no_columns, np.zeros(0))],
        "item_mean": [FoldIn(item_mean, _no_columns, np.zeros(0))],
        "shifted_item_mean": fold_in(item_mean, offset, [0.0]),
        "factorization": factorized,
        "feature_ridge": fold_in(feature_mean, features_of_item),
        "feature_factorization": fold_in(factorized_mean, factors_of_item),
    }


def _no_columns(x: np.ndarray) -> np.ndarray:
    return np.zeros((len(x), 0))
