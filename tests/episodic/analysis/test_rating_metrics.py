"""Errors, lists and baselines of ratings, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from episodic.analysis import rating_metrics
from episodic.analysis.rating_metrics import RatingBaselines, Ratings


def test_measures_by_hand():
    truth, predicted = np.array([1.0, 5.0, 3.0]), np.array([2.0, 3.0, 4.0])
    scores = rating_metrics.score_ratings(truth, predicted, 0.0)
    assert scores["mae"] == pytest.approx(4 / 3) and scores["rmse"] == pytest.approx(math.sqrt(2))
    ideal = 5 + 3 / math.log2(3) + 1 / 2
    assert scores["ndcg_1"] == pytest.approx(3 / 5), "3 comes first, then 5, then 1"
    assert scores["ndcg_3"] == pytest.approx((3 + 5 / math.log2(3) + 1 / 2) / ideal)
    assert (
        rating_metrics.score_ratings(truth, truth, 0.0)["ndcg_3"] == pytest.approx(1)
        and rating_metrics.score_ratings(truth, truth, 0.0)["mae"] == 0
    )


def test_tied_predictions_share_their_ranks():
    scores = rating_metrics.score_ratings(np.array([1.0, 5.0]), np.array([3.0, 3.0]), 1.0)
    assert scores["ndcg_1"] == pytest.approx((0 + 4) / 2 / 4)


def test_ndcg_is_1_where_every_order_is_ideal():
    assert rating_metrics.score_ratings(np.array([4.0]), np.array([1.0]), 1.0)["ndcg_1"] == 1
    assert (
        rating_metrics.score_ratings(np.array([4.0, 4.0]), np.array([1.0, 2.0]), 1.0)["ndcg_1"] == 1
    )


def test_scale_does_not_affect_ndcg():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(1, 6, 30).astype(float), rng.normal(3, 1, 30)
    stars, percent = (
        rating_metrics.score_ratings(k * truth + m, k * predicted + m, k + m)
        for k, m in ((1, 0), (25, -200))
    )
    for top in rating_metrics.NDCG_LENGTHS:
        assert stars[f"ndcg_{top}"] == pytest.approx(percent[f"ndcg_{top}"])
    assert percent["mae"] == pytest.approx(25 * stars["mae"])
    assert rating_metrics.score_ratings(truth - 5, predicted, 3.0)["ndcg_1"] == 1, (
        "all below the lowest known rating"
    )


def world(users: int, level: float, taste: float, seed: int = 0) -> list[Ratings]:
    """Ratings of the items 1 to 12: 3 + level of the user + taste * direction + noise."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=13)
    results = []
    for _ in range(users):
        items = rng.permutation(np.arange(1, 13))
        values = (
            3
            + level * rng.normal()
            + taste * rng.normal() * direction[items]
            + 0.1 * rng.normal(size=12)
        )
        results.append(Ratings(items, values))
    return results


def split(users: list[Ratings], n: int = 6) -> list[tuple[Ratings, Ratings]]:
    return [(user.first(n), Ratings(user.items[n:], user.values[n:])) for user in users]


def errors(level: float, taste: float) -> dict[str, float]:
    fitted = RatingBaselines.fit(
        world(80, level, taste), split(world(20, level, taste, 1)), 13, [6]
    )[6]
    test = split(world(40, level, taste, 2))
    return {
        name: fitted.mean_squared_error(test, name)
        for name in ("global_mean", "item_mean", "shifted_item_mean", "factorisation")
    }


def test_each_baseline_solves_its_intended_problem():
    noise = 0.1**2
    levels = errors(level=1.0, taste=0.0)
    assert levels["shifted_item_mean"] < 3 * noise < 0.3 < levels["item_mean"]
    tastes = errors(level=0.0, taste=1.0)
    assert tastes["factorisation"] < 10 * noise < 0.3 < tastes["shifted_item_mean"]
    assert tastes["item_mean"] < 1.1 * tastes["global_mean"]


def test_item_means_are_damped():
    users = [
        Ratings(np.array([1, 2]), np.array([5.0, 3.0])),
        Ratings(np.array([2]), np.array([1.0])),
    ]
    fitted = RatingBaselines.fit(
        users, [(users[0].first(1), Ratings(np.array([2]), np.array([3.0])))], 4, [1]
    )[1]
    assert fitted.mean == pytest.approx(3)
    assert fitted.item_means.tolist() == pytest.approx(
        [3, 3 + 2 / (1 + rating_metrics.DAMPING), 3 - 2 / (2 + rating_metrics.DAMPING), 3]
    )
    predictions = fitted.predict(users[0].first(1), np.array([3, 0]))
    assert predictions["item_mean"].tolist() == [3, 3] and predictions["factorisation"][
        0
    ] == pytest.approx(predictions["factorisation"][1], abs=1e-6)


def test_the_fold_in_is_ridge_regression():
    fitted = RatingBaselines.fit(world(40, 1.0, 1.0), split(world(10, 1.0, 1.0, 1)), 13, [4])[4]
    user = world(1, 1.0, 1.0, 5)[0].first(4)
    x, y = fitted.factors[user.items], user.values - fitted.item_means[user.items]
    w = np.linalg.lstsq(
        np.concatenate([x, math.sqrt(fitted.strength) * np.eye(x.shape[1])]),
        np.concatenate([y, np.zeros(x.shape[1])]),
        rcond=None,
    )[0]
    expected = fitted.item_means[1:] + fitted.factors[1:] @ w
    assert fitted.predict(user, np.arange(1, 13))["factorisation"] == pytest.approx(expected)


def test_strengths_are_chosen_for_each_number_of_ratings():
    """Where the bias of users is small compared with the noise, one rating needs more damping."""
    rng = np.random.default_rng(1)
    users = [
        Ratings(np.arange(1, 41), 3 + 0.4 * rng.normal() + rng.normal(size=40)) for _ in range(150)
    ]
    fitted = RatingBaselines.fit(users[:100], split(users[100:], 30), 41, [1, 30])
    assert fitted[1].shift > 0
    test = split(
        [
            Ratings(np.arange(1, 41), 3 + 0.4 * rng.normal() + rng.normal(size=40))
            for _ in range(50)
        ],
        1,
    )
    assert fitted[1].mean_squared_error(
        test, "shifted_item_mean"
    ) < RatingBaselines.mean_squared_error(replace(fitted[1], shift=0.0), test, "shifted_item_mean")
