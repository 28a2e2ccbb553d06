"""Metrics of rating prediction.

Scores are computed per user, on the query set. All users have equal weight, regardless of their
number of ratings.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LIST_METRICS", "METRICS", "rank_ratings", "score_ratings"]

NDCG_LENGTHS = (1, 3, 10)
"""Lengths of the ranked lists for nDCG."""

LIST_METRICS = tuple(f"{gain}_{length}" for gain in ("ndcg", "ndcg_exp") for length in NDCG_LENGTHS)
"""Metrics of ranked lists, with a linear and with an exponential gain."""

METRICS = ("mae", "rmse", *LIST_METRICS)


def score_ratings(truth: np.ndarray, prediction: np.ndarray, lowest: float) -> dict[str, float]:
    """Score the predicted ratings of one user.

    Args:
        truth: The ratings `(n,)`.
        prediction: The predicted ratings `(n,)`.
        lowest: The lowest rating of the scale.

    Returns:
        Mean absolute error, root mean squared error and nDCG, keyed by the names in `METRICS`.
    """
    error = truth.astype(np.float64) - prediction
    errors = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    return errors | rank_ratings(truth, prediction, lowest)


def rank_ratings(truth: np.ndarray, prediction: np.ndarray, lowest: float) -> dict[str, float]:
    """Score the order of the items of one user by a prediction.

    The linear gain of nDCG is the rating minus `lowest`, and suits any scale. The exponential gain
    is 2^rating - 1, as in MeLU. On a scale of 100, it would count only the best item. Items with
    equal predictions share the mean of their gains. The nDCG of a user whose ratings are all equal
    is 1.

    Args:
        truth: The ratings `(n,)`.
        prediction: What the items are ranked by `(n,)`, the highest first.
        lowest: The lowest rating of the scale.

    Returns:
        nDCG, keyed by the names in `LIST_METRICS`.

    Sources: Järvelin, Kekäläinen: Cumulated gain-based evaluation of IR techniques, 2002. Lee et
    al.: MeLU, KDD 2019, section 4.2 (the exponential gain). McSherry, Najork: Computing Information
    Retrieval Performance Measures Efficiently in the Presence of Tied Scores, 2008.
    """
    truth = truth.astype(np.float64)
    # nDCG does not depend on the unit of the gain, and 2^rating might be too large for a number.
    top = max(float(truth.max()), 0.0)
    gains = {
        "ndcg": np.maximum(truth - lowest, 0.0),
        "ndcg_exp": np.maximum(np.exp2(truth - top) - np.exp2(-top), 0.0),
    }
    discount = 1 / np.log2(np.arange(2, len(truth) + 2))
    _, tie = np.unique(-prediction, return_inverse=True)
    order = np.argsort(tie, kind="stable")
    scores = {}
    for name, gain in gains.items():
        mean = np.bincount(tie, gain) / np.bincount(tie)
        ranked, ideal = mean[tie[order]] * discount, np.sort(gain)[::-1] * discount
        is_ordered = bool(np.ptp(gain) > 0)
        for length in NDCG_LENGTHS:
            share = ranked[:length].sum() / ideal[:length].sum() if is_ordered else 1.0
            scores[f"{name}_{length}"] = float(share)
    return scores
