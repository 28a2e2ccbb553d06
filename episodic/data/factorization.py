"""Linear models of ratings, fitted to all ratings of the training users.

    rating(u, i) = mean + sum of the biases of all features of u and i + b_u + <v_i, w_u>

v_i is the sum of the factors of the features of item i. A new user has no b_u and no w_u, so models
of ratings start at the biases and factors, and infer the rest from the first ratings of a user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["RatingRows", "count_features", "fit_biases", "fit_factors", "sum_features"]

ITEM_DAMPING = 5.0
"""Strength of the penalty of the bias of an item and of a training user, in number of ratings."""

FEATURE_DAMPING = 100.0
"""Strength of the penalty of the bias of any other feature, in number of ratings."""

FACTOR_STRENGTH = 50.0
"""Default product of the penalties of the factors of users and of items."""

PRIOR_DAMPING = 5.0
"""Penalty of the factors of features that items share, in number of items."""

USER_PRIOR_DAMPING = 20.0
"""Penalty of the factors of features of users, in number of users."""

SWEEPS = 10
"""Iterations of alternating least squares."""

CG_STEPS = 200
CG_TOLERANCE = 1e-6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RatingRows:
    """Ratings of several users. The ratings of a user are in consecutive rows.

    Attributes:
        x: Numbers of features, int64 `(N, fields, features)`, 0 for "no feature". The first field
            is the item, and its first feature the item itself; a second field is the user.
        y: The ratings `(N,)`, float64.
        user: Index of the user of each rating, int64 `(N,)`, in ascending order.
    """

    x: NDArray[np.int64]
    y: Array
    user: NDArray[np.int64]

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.user[-1]) + 1


def sum_features(x: NDArray[np.int64], values: Array) -> Array:
    """Sum the values of the features of each example, and of each of its fields.

    Args:
        x: Numbers of features `(n, fields, features)`.
        values: Values of each feature, `(tokens,)` or `(tokens, width)`. Row 0 is ignored.

    Returns:
        `(n, fields)` or `(n, fields, width)`.
    """
    known = x > 0
    found = values[x]
    total: Array = (found * (known if found.ndim == 3 else known[..., None])).sum(2)
    return total


def count_features(x: NDArray[np.int64], features: NDArray[np.int64]) -> Array:
    """Count how often each example has each of some features.

    Args:
        x: Numbers of features `(n, features)`.
        features: The features to count, sorted `(k,)`.

    Returns:
        `(n, k)`.
    """
    counts = np.zeros((len(x), len(features)))
    if len(features):
        column = np.searchsorted(features, x).clip(max=len(features) - 1)
        np.add.at(counts, (np.arange(len(x))[:, None], column), features[column] == x)
    return counts


def fit_biases(rows: RatingRows, tokens: int) -> tuple[float, Array]:
    """Fit one bias per feature by ridge regression, together with a bias per user.

    The biases of users, who are not those of the test, are estimated so that a film is not praised
    for its generous raters, and dropped. The bias of a rarely rated item is close to the sum of the
    biases of its features.

    Args:
        rows: Ratings of the training users.
        tokens: The largest number of a feature plus 1.

    Returns:
        The mean rating and the biases `(tokens,)`, 0 for features that have no rating.

    Source: Koren, Bell, Volinsky: Matrix Factorization Techniques for Recommender Systems, 2009
    (biases), with features as in Rendle: Factorization Machines, 2010. The system is solved by the
    conjugate gradient method.
    """
    flat = rows.x.reshape(len(rows.x), -1)
    row, column = np.nonzero(flat)
    feature = flat[row, column]
    size = tokens + rows.users
    penalty = np.full(size, FEATURE_DAMPING)
    penalty[rows.x[:, 0, 0]] = ITEM_DAMPING
    penalty[tokens:] = ITEM_DAMPING
    own = tokens + rows.user

    def predict(b: Array) -> Array:
        return np.bincount(row, b[feature], len(flat)) + b[own]

    def transpose(r: Array) -> Array:
        total = np.bincount(feature, r[row], size) + np.bincount(own, r, size)
        return np.asarray(total, np.float64)

    mean = float(rows.y.mean())
    b = np.zeros(size)
    residual = transpose(rows.y - mean)
    direction, square = residual, float(residual @ residual)
    limit = CG_TOLERANCE**2 * square
    for _ in range(CG_STEPS):
        if square <= limit:
            break
        image = transpose(predict(direction)) + penalty * direction
        step = square / float(direction @ image)
        b, residual = b + step * direction, residual - step * image
        before, square = square, float(residual @ residual)
        direction = residual + square / before * direction
    return mean, b[:tokens]


def fit_factors(
    rows: RatingRows,
    tokens: int,
    rank: int,
    generator: torch.Generator,
    user_strength: float = 10.0,
    item_strength: float | None = None,
) -> Array:
    """Fit the factors of features by alternating least squares.

    The prior mean of the factors of an item is the sum of the factors of its other features, to
    which those of a rarely rated item stay close. Those of a feature of users predict w_u.

    Args:
        rows: Ratings of the training users, minus mean and biases.
        tokens: The largest number of a feature plus 1.
        rank: Number of factors.
        generator: Source of the initial values.
        user_strength: Strength of the penalty of the factors of users, and so the scale of the
            result: ridge regression on the factors with this strength adapts to a new user.
        item_strength: Strength of the penalty of the factors of items. Only its product with that
            of users matters for the model, because factors of items times c and factors of users
            divided by c are the same model. None: a product of FACTOR_STRENGTH.

    Returns:
        The factors `(tokens, rank)`. Those of items have no unit, and those of users have the unit
        of a rating.

    Source: Koren, Bell, Volinsky: Matrix Factorization Techniques for Recommender Systems, 2009;
    Agarwal, Chen: Regression-based Latent Factor Models, KDD 2009 (the priors).
    """
    scale = float(rows.y.std()) or 1.0
    rows = replace(rows, y=rows.y / scale)
    keys, item = np.unique(rows.x[:, 0], axis=0, return_inverse=True)
    item = item.reshape(-1)
    shared = np.unique(keys[:, 1:][keys[:, 1:] > 0])
    has_shared = count_features(keys[:, 1:], shared)
    order = np.argsort(item, kind="stable")
    of_item = np.split(order, np.cumsum(np.bincount(item))[:-1])
    of_user = np.split(np.arange(len(item)), np.cumsum(np.bincount(rows.user))[:-1])
    user_penalty = np.diag([ITEM_DAMPING] + [user_strength] * rank)
    if item_strength is None:
        item_strength = FACTOR_STRENGTH / user_strength
    item_penalty = item_strength * np.eye(rank)
    factors = 0.1 * torch.randn(len(keys), rank, generator=generator).double().numpy()
    prior, of_shared = np.zeros_like(factors), np.zeros((len(shared), rank))
    users = np.zeros((rows.users, 1 + rank))
    for _ in range(SWEEPS):
        for u, own in enumerate(of_user):
            x = np.concatenate([np.ones((len(own), 1)), factors[item[own]]], 1)
            users[u] = np.linalg.solve(x.T @ x + user_penalty, x.T @ rows.y[own])
        for i, own in enumerate(of_item):
            raters = users[rows.user[own]]
            x = raters[:, 1:]
            rest = rows.y[own] - raters[:, 0] - x @ prior[i]
            factors[i] = prior[i] + np.linalg.solve(x.T @ x + item_penalty, x.T @ rest)
        of_shared = _solve_ridge(has_shared, factors, PRIOR_DAMPING)
        prior = has_shared @ of_shared
    of_feature = np.zeros((tokens, rank))
    of_feature[shared] = of_shared
    of_feature[keys[:, 0]] += factors - prior
    if rows.x.shape[1] > 1:
        described = rows.x[[own[0] for own in of_user], 1]
        features = np.unique(described[described > 0])
        of_feature[features] += scale * _solve_ridge(
            count_features(described, features), users[:, 1:], USER_PRIOR_DAMPING
        )
    return of_feature


def _solve_ridge(x: Array, y: Array, strength: float) -> Array:
    """Solve ridge regression: minimize `|x w - y|^2 + strength |w|^2` over `w`."""
    solved = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
    return np.asarray(solved, np.float64)
