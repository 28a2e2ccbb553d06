"""How well ratings are told in advance: errors, the order of a list, and what people had before.

Every answer is of one user's query set; users count alike, however much they rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

TOPS = (1, 3, 10)
"""Lengths of the lists that nDCG looks at."""

MEASURES = ("mae", "rmse", *(f"ndcg_{top}" for top in TOPS))

DAMPING = 5.0
"""Ratings at the global mean that every item's mean begins with, so that a single rating is no mean."""

RANK = 8
"""Numbers that a user and an item have in the matrix factorisation, beside the user's own level."""
SWEEPS = 15
"""Of its alternating least squares."""
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
"""Regularisation of it and of the shifts that is tried on validation users."""


def measures(truth: np.ndarray, answer: np.ndarray, lowest: float) -> dict[str, float]:
    """Of one user: mean absolute error, root of the mean squared error, and nDCG at each of TOPS; truth, answer `(n,)`.

    nDCG@k (Jarvelin, Kekalainen 2002) of the list by `answer`, against that by `truth`; gains are linear, how far a rating is above
    `lowest`, so that they hold for any scale (2^rating, as MeLU has it, sees the best item alone on a scale of 100). Equal answers share
    their places, as scikit-learn has it; a user whose ratings are all equal has 1, whatever is said.
    """
    from sklearn.metrics import ndcg_score

    error = truth.astype(np.float64) - answer
    result = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    gains = np.maximum(truth.astype(np.float64) - lowest, 0.0)
    for top in TOPS:
        ordered = len(truth) > 1 and bool(np.ptp(gains) > 0)
        result[f"ndcg_{top}"] = (
            float(ndcg_score(gains[None], answer[None].astype(np.float64), k=top))
            if ordered
            else 1.0
        )
    return result


@dataclass(frozen=True)
class Ratings:
    """items, values: of one user, in the order of time: int64 `(n,)`, numbers of the items (0: one that training users did not rate)."""

    items: np.ndarray
    values: np.ndarray

    def first(self, n: int) -> Ratings:
        return Ratings(self.items[:n], self.values[:n])


@dataclass(frozen=True)
class Baselines:
    """What needs no meta-learning; fitted to the training users, and its strengths chosen on validation users.

    mean: of all ratings; item_means: `(items,)`, damped towards it; factors: `(items, 1 + RANK)`, each item's numbers behind a 1 for the
    user's own level
    shift, strength: how many ratings a user's level, and the regularisation of the factors, weighs
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
    ) -> dict[int, Baselines]:
        """For each number of first ratings of `shots`, its strengths chosen for it; train: all ratings of each training user; validation:
        support and query of each validation user; items: largest number + 1"""
        item, value = (
            np.concatenate([getattr(user, part) for user in train]) for part in ("items", "values")
        )
        mean = float(value.mean())
        counts, sums = np.bincount(item, minlength=items), np.bincount(item, value - mean, items)
        means = mean + sums / (counts + DAMPING)
        means[0] = mean
        tried = [cls(mean, means, _factors(train, means, s), 0.0, s) for s in STRENGTHS]
        found = {}
        for n in shots:
            users = [(support.first(n), query) for support, query in validation]
            best = min(tried, key=lambda b: b.error(users, "factorisation"))
            shifted = [replace(best, shift=shift) for shift in (0.0, *STRENGTHS)]
            found[n] = min(shifted, key=lambda b: b.error(users, "shifted_item_mean"))
        return found

    def error(self, users: Sequence[tuple[Ratings, Ratings]], method: str) -> float:
        return float(
            np.mean(
                [
                    ((query.values - self.answers(support, query.items)[method]) ** 2).mean()
                    for support, query in users
                ]
            )
        )

    def answers(self, support: Ratings, query: np.ndarray) -> dict[str, np.ndarray]:
        """Each method's answers `(n,)` to the items `query`, given a user's support."""
        deviation = support.values - self.item_means[support.items]
        level = deviation.sum() / (len(deviation) + self.shift)
        user = _solved(self.factors[support.items], deviation, self.strength)
        return {
            "global_mean": np.full(len(query), self.mean),
            "item_mean": self.item_means[query],
            "shifted_item_mean": self.item_means[query] + level,
            "factorisation": self.item_means[query] + self.factors[query] @ user,
        }


def _factors(train: Sequence[Ratings], means: np.ndarray, strength: float) -> np.ndarray:
    """Items' numbers by alternating least squares on what the item means leave (Yehuda Koren, Robert Bell, Chris Volinsky: Matrix
    Factorization Techniques for Recommender Systems, 2009, with a user's level beside the factors)."""
    items = len(means)
    factors = np.concatenate(
        [np.ones((items, 1)), np.random.default_rng(0).normal(0, 0.1, (items, RANK))], 1
    )
    left = [user.values - means[user.items] for user in train]
    number = np.repeat(np.arange(len(train)), [len(user.items) for user in train])
    item, value = np.concatenate([user.items for user in train]), np.concatenate(left)
    order = np.argsort(item, kind="stable")
    bounds = np.searchsorted(item[order], np.arange(items + 1))
    users = np.zeros((len(train), 1 + RANK))
    for _ in range(SWEEPS):
        for place, (user, rest) in enumerate(zip(train, left, strict=True)):
            users[place] = _solved(factors[user.items], rest, strength)
        for i in range(1, items):
            rows = order[bounds[i] : bounds[i + 1]]
            who = users[number[rows]]
            factors[i, 1:] = _solved(who[:, 1:], value[rows] - who[:, 0], strength)
    factors[0, 1:] = 0.0
    return factors


def _solved(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Ridge regression: the w of least |x w - y|^2 + strength |w|^2."""
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
