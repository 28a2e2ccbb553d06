"""Baselines of ratings, each on the problem that it solves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from episodic.analysis import item_similarity, rating_baselines
from episodic.analysis.item_similarity import Ease, ItemNeighbours, Ratings, fit_ease
from episodic.analysis.rating_baselines import FoldIn, RatingBaselines, mean_squared_error
from episodic.data.factorization import RatingRows

ITEMS, GENRES = 12, 3
TOKENS = 1 + ITEMS + GENRES
RATING = ("factorization", "feature_factorization", "feature_ridge", "neighbours")


def rate(items: np.ndarray, values: np.ndarray) -> Ratings:
    """Ratings of items with a genre."""
    genre = np.where(items > 0, 1 + ITEMS + items % GENRES, 1 + ITEMS)
    return Ratings(np.stack([items, genre], 1)[:, None].astype(np.int64), values)


def world(
    users: int, level: float = 0.0, taste: float = 0.0, genre: float = 0.0, seed: int = 0
) -> list[Ratings]:
    """Ratings of all items: 3 + offset of the user + taste * direction + liking of genres + noise.

    The offset, the taste and the likings of a user have the given standard deviations.
    """
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=1 + ITEMS)
    results = []
    for _ in range(users):
        items = rng.permutation(np.arange(1, 1 + ITEMS))
        values = 3 + level * rng.normal() + taste * rng.normal() * direction[items]
        values = values + genre * rng.normal(size=GENRES)[items % GENRES]
        results.append(rate(items, values + 0.1 * rng.normal(size=ITEMS)))
    return results


def split(users: list[Ratings], n: int = 6) -> list[tuple[Ratings, Ratings]]:
    return [(user.first(n), Ratings(user.x[n:], user.values[n:])) for user in users]


def errors(**world_of: float) -> dict[str, float]:
    train, validation, test = (
        world(n, **world_of, seed=seed) for n, seed in ((80, 0), (20, 1), (40, 2))
    )
    fitted = RatingBaselines.fit(train, split(validation), TOKENS, [6])[6]
    return {name: mean_squared_error(b, split(test)) for name, b in fitted.rating.items()}


def test_each_baseline_solves_its_intended_problem():
    noise = 0.1**2
    levels = errors(level=1.0)
    assert levels["shifted_item_mean"] < 3 * noise < 0.3 < levels["item_mean"]
    assert all(levels[name] < 10 * noise for name in RATING), levels
    tastes = errors(taste=1.0)
    assert tastes["factorization"] < 10 * noise < 0.3 < tastes["shifted_item_mean"]
    assert tastes["feature_factorization"] < 10 * noise
    assert tastes["neighbours"] < 0.6 * tastes["shifted_item_mean"]
    assert tastes["item_mean"] < 1.1 * tastes["global_mean"]
    genres = errors(genre=1.0)
    assert genres["feature_ridge"] < 0.5 < 0.9 < genres["shifted_item_mean"]
    assert genres["feature_factorization"] < 0.3, "genres are factors, too"


def test_features_describe_an_unknown_item():
    """Item 0 is unknown: only the genre, whose mean rating is higher, says something about it."""
    rng = np.random.default_rng(0)

    def draw(users: int) -> list[Ratings]:
        items = [rng.permutation(np.arange(1, 1 + ITEMS)) for _ in range(users)]
        return [rate(i, 3.0 + (i % GENRES == 0) + 0.1 * rng.normal(size=ITEMS)) for i in items]

    fitted = RatingBaselines.fit(draw(60), split(draw(10)), TOKENS, [6])[6]
    unknown = np.array([[[0, 1 + ITEMS]], [[0, 2 + ITEMS]]])
    known = draw(1)[0].first(6)
    for name, predicted in fitted.predict(known, unknown).items():
        if name.startswith("feature_"):
            # With four items per genre, most of the difference is in the biases of the items.
            assert 0.1 < predicted[0] - predicted[1] < 1.1, name
        else:
            assert predicted[0] == pytest.approx(predicted[1]), name


def test_item_means_are_damped():
    users = [
        rate(np.array([1, 2]), np.array([5.0, 3.0])),
        rate(np.array([2]), np.array([1.0])),
    ]
    validation = [(users[0].first(1), rate(np.array([2]), np.array([3.0])))]
    fitted = RatingBaselines.fit(users, validation, TOKENS, [1])[1]
    asked = rate(np.array([0, 1, 2, 3]), np.zeros(4)).x
    damping = rating_baselines.DAMPING
    assert fitted.predict(users[0].first(1), asked)["item_mean"].tolist() == pytest.approx(
        [3, 3 + 2 / (1 + damping), 3 - 2 / (2 + damping), 3]
    )


def test_the_fold_in_is_ridge_regression():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(TOKENS, 3))
    fold_in = FoldIn(
        lambda x: x[:, 0, 0] / 10, lambda x: table[x[:, 0, 0]], np.array([0.5, 2.0, 3.0])
    )
    user = world(1, 1.0, 1.0, seed=5)[0].first(4)
    x, y = table[user.items], user.values - user.items / 10
    w = np.linalg.lstsq(
        np.concatenate([x, np.diag(np.sqrt(fold_in.penalty))]),
        np.concatenate([y, np.zeros(3)]),
        rcond=None,
    )[0]
    asked = rate(np.arange(1, 5), np.zeros(4))
    expected = asked.items / 10 + table[asked.items] @ w
    assert fold_in.predict(user, asked.x) == pytest.approx(expected)


def test_neighbours_by_hand():
    base = FoldIn(lambda x: np.full(len(x), 3.0), lambda x: np.zeros((len(x), 0)), np.zeros(0))
    similarity = np.zeros((4, 4))
    similarity[1, 2], similarity[1, 3] = 0.8, -0.4
    neighbours = ItemNeighbours(base, similarity, shrinkage=0.2)
    user = rate(np.array([2, 3]), np.array([5.0, 4.0]))
    asked = rate(np.array([1, 2]), np.zeros(2)).x
    expected = 3 + (0.8 * 2 - 0.4 * 1) / (0.8 + 0.4 + 0.2)
    assert neighbours.predict(user, asked).tolist() == pytest.approx([expected, 3])


def test_similarities_need_common_raters():
    """Two items that all rate alike are similar, and more so the more raters they share."""

    def similarity(users: int) -> float:
        rng = np.random.default_rng(0)
        liking = rng.normal(size=users)
        values = np.stack([liking, liking, rng.normal(size=users), rng.normal(size=users)], 1)
        x = np.tile(np.arange(1, 5), users)[:, None, None]
        rows = RatingRows(x, values.reshape(-1), np.repeat(np.arange(users), 4))
        found = item_similarity.item_similarities(rows, np.zeros(5), 5)
        assert np.allclose(found, found.T) and (found[0] == 0).all()
        return float(found[1, 2])

    assert 0 < similarity(10) < 0.25 < 0.6 < similarity(400) < 1


def test_ease_solves_its_objective():
    """Each column is ridge regression on the other items (Steck 2019, equation 2)."""
    rng = np.random.default_rng(0)
    liked = (rng.random((50, 5)) < 0.5).astype(float)
    liked[:, 3] = liked[:, 2]
    users, items = np.nonzero(np.ones_like(liked))
    rows = RatingRows((items + 1)[:, None, None], liked[users, items] * 4 + 1, users)
    ease: Ease = fit_ease(rows, 6, [2.0])[0]
    assert ease.threshold == pytest.approx(rows.y.mean()) and (np.diag(ease.weights) == 0).all()
    for item in range(5):
        others = np.delete(liked, item, 1)
        w = np.linalg.solve(others.T @ others + 2.0 * np.eye(4), others.T @ liked[:, item])
        np.testing.assert_allclose(np.delete(ease.weights[1:, item + 1], item), w, atol=1e-10)
    user = Ratings(np.array([3, 1])[:, None, None], np.array([5.0, 1.0]))
    scores = ease.predict(user, np.array([4, 5])[:, None, None])
    assert scores[0] == pytest.approx(ease.weights[3, 4]) and scores[0] > 0.5 > scores[1]


def test_damping_is_chosen_for_each_number_of_ratings():
    """Where the offset of users is small compared with the noise, one rating needs more damping."""
    rng = np.random.default_rng(1)

    def draw(users: int) -> list[Ratings]:
        items = np.tile(np.arange(1, 1 + ITEMS), 4)
        return [
            rate(items, 3 + 0.4 * rng.normal() + rng.normal(size=len(items))) for _ in range(users)
        ]

    fitted = RatingBaselines.fit(draw(100), split(draw(50), 30), TOKENS, [1, 30])
    few, many = (fitted[n].rating["shifted_item_mean"] for n in (1, 30))
    assert few.penalty[0] > 0
    undamped = FoldIn(few.base, few.design, np.zeros(1))
    test = split(draw(50), 1)
    assert mean_squared_error(few, test) < 0.9 * mean_squared_error(undamped, test)
    assert math.isfinite(mean_squared_error(many, split(draw(50), 30)))
