"""Errors and ranked lists of ratings, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from episodic.analysis import rating_metrics


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


def test_the_exponential_gain_by_hand():
    """As in MeLU: 2^rating - 1, on the scale of the ratings."""
    truth, predicted = np.array([1.0, 5.0, 3.0]), np.array([2.0, 3.0, 4.0])
    scores = rating_metrics.rank_ratings(truth, predicted, 1.0)
    ideal = 31 + 7 / math.log2(3) + 1 / 2
    assert scores["ndcg_exp_1"] == pytest.approx(7 / 31)
    assert scores["ndcg_exp_3"] == pytest.approx((7 + 31 / math.log2(3) + 1 / 2) / ideal)
    assert rating_metrics.rank_ratings(truth, truth, 1.0)["ndcg_exp_10"] == pytest.approx(1)


def test_the_exponential_gain_is_finite_on_any_scale():
    truth, predicted = np.array([2000.0, 1999.0, 10.0]), np.array([1.0, 2.0, 3.0])
    scores = rating_metrics.rank_ratings(truth, predicted, 0.0)
    assert scores["ndcg_exp_1"] == 0 and scores["ndcg_exp_3"] == pytest.approx(
        (1 / 2 + 0.5 / math.log2(3)) / (1 + 0.5 / math.log2(3))
    )


def test_ndcg_is_that_of_scikit_learn():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(1, 6, 40).astype(float), rng.integers(0, 9, 40) / 3
    scores = rating_metrics.rank_ratings(truth, predicted, 1.0)
    for length in rating_metrics.NDCG_LENGTHS:
        for name, gain in (("ndcg", truth - 1), ("ndcg_exp", 2**truth - 1)):
            expected = ndcg_score(gain[None], predicted[None], k=length)
            assert scores[f"{name}_{length}"] == pytest.approx(expected)
