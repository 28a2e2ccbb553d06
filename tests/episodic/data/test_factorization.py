"""Biases and factors of features, against closed forms and planted ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from episodic.core import random_numbers
from episodic.data import factorization
from episodic.data.factorization import RatingRows, count_features, fit_biases, fit_factors

ITEMS, GENRES, USERS = 30, 4, 80
TOKENS = 1 + ITEMS + GENRES + 2


def draw(
    noise: float, rank: int = 0, seed: int = 0, each: int = 25
) -> tuple[RatingRows, np.ndarray]:
    """Ratings, and the planted taste of all users for all items `(USERS, ITEMS)`.

    An example is the item with a genre, and a user with one of two features.
    """
    rng = np.random.default_rng(seed)
    quality, level = rng.normal(0, 0.7, ITEMS), rng.normal(0, 0.5, USERS)
    taste = rng.normal(0, 1, (USERS, rank)) @ rng.normal(0, 1, (rank, ITEMS))
    x, y, user = [], [], []
    for u in range(USERS):
        for i in rng.choice(ITEMS, each, replace=False):
            x.append([[1 + i, 1 + ITEMS + i % GENRES], [TOKENS - 1 - u % 2, 0]])
            y.append(3 + quality[i] + level[u] + taste[u, i] + noise * rng.normal())
            user.append(u)
    return RatingRows(np.array(x), np.array(y), np.array(user)), taste


def test_biases_solve_ridge_regression():
    rows, _ = draw(noise=0.5)
    mean, biases = fit_biases(rows, TOKENS)
    flat = rows.x.reshape(len(rows.x), -1)
    design = np.zeros((len(flat), TOKENS + USERS))
    for column in flat.T:
        design[np.arange(len(flat)), column] += column > 0
    design[np.arange(len(flat)), TOKENS + rows.user] = 1
    penalty = np.full(TOKENS + USERS, factorization.FEATURE_DAMPING)
    penalty[1 : 1 + ITEMS] = penalty[TOKENS:] = factorization.ITEM_DAMPING
    expected = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ (rows.y - mean))
    assert mean == pytest.approx(rows.y.mean())
    np.testing.assert_allclose(biases, expected[:TOKENS], rtol=0, atol=1e-5)


def test_rarely_rated_items_stay_close_to_their_features():
    """Popularity regularizes: one rating moves a bias less than many do."""
    rows, _ = draw(noise=0.0)
    is_first, is_second = (rows.x[:, 0, 0] == item for item in (1, 1 + GENRES))
    assert is_first.sum() > 40 and is_second.sum() > 40
    once = np.flatnonzero(is_first)[1:]
    y = rows.y.copy()
    y[is_first] += 2
    y[is_second] += 2
    kept = np.setdiff1d(np.arange(len(y)), once)
    _, biases = fit_biases(RatingRows(rows.x[kept], y[kept], rows.user[kept]), TOKENS)
    _, before = fit_biases(RatingRows(rows.x[kept], rows.y[kept], rows.user[kept]), TOKENS)
    moved = biases - before
    assert 0 < moved[1] < 0.6 < 1.2 < moved[1 + GENRES]


def test_factors_explain_a_planted_taste():
    rows, taste = draw(noise=0.1, rank=2)
    mean, biases = fit_biases(rows, TOKENS)
    residual = rows.y - mean - factorization.sum_features(rows.x, biases[:, None]).sum((1, 2))
    generator = random_numbers.generator(0, "test")
    factors = fit_factors(replace(rows, y=residual), TOKENS, 2, generator, user_strength=1.0)
    of_item = factors[1 : 1 + ITEMS] + factors[1 + ITEMS + np.arange(ITEMS) % GENRES]
    basis = np.linalg.qr(np.concatenate([of_item, np.ones((ITEMS, 1))], 1))[0]
    centred = taste - taste.mean(0)
    unexplained = centred - centred @ basis @ basis.T
    assert (unexplained**2).sum() < 0.03 * (centred**2).sum()
    random = np.linalg.qr(np.random.default_rng(0).normal(size=(ITEMS, 3)))[0]
    assert ((centred - centred @ random @ random.T) ** 2).sum() > 0.5 * (centred**2).sum()


def test_the_product_of_the_strengths_determines_the_model():
    """Factors of items shrink as much as those of users grow."""
    rows, _ = draw(noise=0.3, rank=2)
    rows = replace(rows, y=rows.y - rows.y.mean())
    one, other = (
        fit_factors(rows, TOKENS, 2, random_numbers.generator(0, "test"), strength)
        for strength in (5.0, 20.0)
    )
    items = slice(1, 1 + ITEMS)
    gram, scaled = one[items] @ one[items].T, other[items] @ other[items].T
    assert np.linalg.norm(gram) > 0.1
    assert np.linalg.norm(scaled) / np.linalg.norm(gram) == pytest.approx(4, rel=0.1)


def test_features_are_counted():
    x = np.array([[3, 5, 0], [5, 5, 9], [0, 0, 0]])
    assert count_features(x, np.array([3, 5, 7])).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert count_features(x, np.array([], int)).shape == (3, 0)
