"""Unknown classes: scores and measures by hand, and the choice of a score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from episodic.core.config import ConfigError
from episodic.training.unknown import (
    SCORES,
    UnknownDetector,
    choose_detector,
    feature_distances,
    logit_scores,
    measure_detection,
    measure_selective_accuracy,
)


def test_scores_of_logits_by_hand():
    scores = logit_scores(torch.tensor([[math.log(2), math.log(6), -math.inf]]))
    assert float(scores["max_softmax"]) == pytest.approx(0.75)
    assert float(scores["energy"]) == pytest.approx(math.log(8))


def test_distances_by_hand():
    """Two classes on a line, at 0 and 4 on average; the unit is 16."""
    support = torch.tensor([[[-1.0], [1.0], [2.0], [4.0], [6.0]]])
    y = torch.tensor([[0, 0, 1, 1, 1]])
    query = torch.tensor([[[0.0], [3.0], [10.0]]])
    found = feature_distances(support, y, query, 2)
    torch.testing.assert_close(found["mean_distance"], -torch.tensor([[0.0, 1, 36]]) / 16)
    # The second nearest example, since the smallest class has two.
    torch.testing.assert_close(found["neighbour_distance"], -torch.tensor([[1.0, 1, 36]]) / 16)
    scaled = feature_distances(7 * support, y, 7 * query, 2)
    for name, values in found.items():
        torch.testing.assert_close(scaled[name], values)
    padded = feature_distances(
        torch.cat([support, torch.full((1, 2, 1), 3.0)], 1),
        torch.cat([y, torch.zeros(1, 2, dtype=torch.int64)], 1),
        query,
        3,
        torch.tensor([[True] * 5 + [False] * 2]),
    )
    for name, values in found.items():
        torch.testing.assert_close(padded[name], values)


def test_detection_by_hand():
    score = np.array([0.9, 0.8, 0.4, 0.6, 0.4, 0.1])
    is_known = np.array([1, 1, 1, 0, 0, 0]).astype(bool)
    found = measure_detection(score, is_known, np.array([0, 1, 0, 1, 0, 1]), 0)
    assert found.auroc == pytest.approx((3 + 3 + 1.5) / 9)
    assert found.fpr == pytest.approx(2 / 3), "all known queries are accepted from 0.4 on"
    order = [3, 0, 5, 1, 4, 2]
    again = measure_detection(score[order], is_known[order], np.arange(6) % 2, 0)
    assert (again.auroc, again.fpr) == (found.auroc, found.fpr)
    known = np.linspace(1, 2, 100)
    rate = measure_detection(
        np.concatenate([known, [1.03, 1.06]]), np.arange(102) < 100, np.arange(102) % 7, 0
    )
    assert rate.fpr == 0.5, "5 of 100 known queries may be rejected"


def queries(episodes: int = 300, spread: float = 0.0, gap: float = 1.5):
    rng = np.random.default_rng(0)
    episode = np.arange(episodes).repeat(20)
    is_known = np.tile(np.arange(20) < 10, episodes)
    shift = spread * rng.normal(size=episodes)[episode]
    return gap * is_known + rng.normal(size=len(episode)) + shift, is_known, episode


def test_the_area_and_its_interval():
    """Of two normal distributions, 1.5 standard deviations apart."""
    score, is_known, episode = queries()
    found = measure_detection(score, is_known, episode, 0)
    truth = 0.5 * (1 + math.erf(1.5 / 2))
    assert abs(found.auroc - truth) < 2 * found.auroc_ci95 < 0.03
    assert found.auroc_samples.mean() == pytest.approx(found.auroc, abs=0.003)
    assert found.auroc_samples.std(ddof=1) * 1.96 == pytest.approx(found.auroc_ci95)
    z = 1.5 - 1.6449
    assert found.fpr == pytest.approx(0.5 * (1 + math.erf(z / 2**0.5)), abs=3 * found.fpr_ci95)
    assert 0 < found.fpr_ci95 < 0.05


def test_one_threshold_serves_all_tasks():
    """A score with a level of its own in each task is worse, and its interval is wider."""
    fixed, shifted = measure_detection(*queries(), 0), measure_detection(*queries(spread=2.0), 0)
    assert shifted.auroc < fixed.auroc - 0.05 and shifted.auroc_ci95 > 1.2 * fixed.auroc_ci95


def test_the_choice_needs_evidence():
    score, is_known, episode = queries()
    noise = np.random.default_rng(1).normal(size=len(score))
    worse = dict.fromkeys(SCORES[1:], 0.1 * score + noise)
    assert choose_detector({"max_softmax": score, **worse}, is_known, episode, 0).score == (
        "max_softmax"
    )
    equal = dict.fromkeys(SCORES[1:], score + 0.01 * noise)
    assert choose_detector({"max_softmax": score, **equal}, is_known, episode, 0).score == (
        "max_softmax"
    )
    better = {"max_softmax": score + 0.5 * noise} | dict.fromkeys(SCORES, score - 2 * noise)
    better |= {"max_softmax": score + 0.5 * noise, "energy": score}
    detector = choose_detector(better, is_known, episode, 0)
    assert detector.score == "energy"
    assert detector.threshold == pytest.approx(0.75, abs=0.2), "where both densities are equal"
    accepted = score >= detector.threshold
    index = accepted[is_known].mean() - accepted[~is_known].mean()
    for threshold in np.linspace(-1, 3, 41):
        assert (
            index
            >= (score[is_known] >= threshold).mean() - (score[~is_known] >= threshold).mean() - 1e-9
        )


def test_a_detector_is_stored_as_numbers():
    detector = UnknownDetector("energy", -1.5)
    assert UnknownDetector.from_json(detector.to_json()) == detector
    for values in ({"score": "size", "threshold": 1}, {"score": "energy", "threshold": math.nan}):
        with pytest.raises(ConfigError):
            UnknownDetector.from_json(values)


def test_selective_accuracy_by_hand():
    score = np.linspace(1, 0, 40)
    correct = np.arange(40) < 30
    order = np.random.default_rng(0).permutation(40)
    found = measure_selective_accuracy(score[order], correct[order], (np.arange(40) % 4)[order], 0)
    np.testing.assert_allclose(found.answered, np.arange(1, 21) / 20)
    np.testing.assert_allclose(found.accuracy[:15], 1)
    assert found.accuracy[-1] == 0.75 and found.accuracy[15] == pytest.approx(30 / 32)
    assert (found.low <= found.accuracy).all() and (found.accuracy <= found.high).all()
    assert found.high[-1] - found.low[-1] < 0.2
