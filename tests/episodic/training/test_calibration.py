"""Calibration: fits against plain code, known miscalibration, and errors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.training.calibration import (
    BINS,
    Calibration,
    brier_scores,
    fit_calibration,
    measure_calibration_error,
    negative_log_likelihoods,
)


def sampled_tasks(tasks=200, queries=15, ways=5, temperature=1.0, shots=None, weight=0.0, bias=0.0):
    """Logits whose labels are drawn from the probabilities of this calibration."""
    generator = random_numbers.generator(0, "logits")
    logits = 2 * torch.randn(tasks, queries, ways, generator=generator, dtype=torch.float64)
    p = Calibration(temperature, weight, bias)(logits, shots).softmax(-1)
    y = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(tasks, queries)
    return logits, y


@pytest.mark.parametrize("temperature", [0.25, 1.0, 6.0])
def test_the_temperature_of_the_labels_is_found(temperature):
    logits, y = sampled_tasks(temperature=temperature)
    found = fit_calibration(logits, y)
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert (found.weight, found.bias) == (0, 0)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy((logits / t).flatten(0, 1), y.flatten()))

    best = min(np.geomspace(0.1, 10, 2001), key=loss)
    assert found.temperature == pytest.approx(best, rel=0.02), "up to Platt's targets"


def test_vector_scaling_finds_what_depends_on_the_shots():
    shots = torch.tensor([1.0, 1, 2, 5, 10]).expand(400, 5)
    logits, y = sampled_tasks(400, 30, 5, 2.0, shots, weight=0.3, bias=0.7)
    found = fit_calibration(logits, y, shots, kind="vector")
    assert found.temperature == pytest.approx(2, rel=0.1)
    assert found.weight == pytest.approx(0.3, abs=0.1) and found.bias == pytest.approx(0.7, abs=0.1)
    one = fit_calibration(logits, y, shots)
    assert (one.weight, one.bias) == (0, 0)
    losses = [
        torch.nn.functional.cross_entropy(c(logits, shots).flatten(0, 1), y.flatten())
        for c in (found, one, Calibration())
    ]
    assert losses[0] < losses[1] - 0.05 and losses[1] < losses[2] - 0.05
    equal = torch.full_like(shots, 3)
    plain = sampled_tasks(temperature=2.0)
    vector, one = fit_calibration(*plain, equal[:200], kind="vector"), fit_calibration(*plain)
    assert vector.temperature == pytest.approx(one.temperature, rel=1e-9)
    assert (vector.weight, vector.bias) == (0, 0)


def test_padding_and_absent_classes_do_not_count():
    logits, y = sampled_tasks(40, temperature=3.0)
    padded = torch.cat([logits, torch.full((40, 15, 2), -torch.inf)], 2)
    padded = torch.cat([padded, torch.randn(40, 4, 7, dtype=torch.float64)], 1)
    padded[:, 15:, 5:] = -torch.inf
    is_query = torch.arange(19).expand(40, -1) < 15
    padded_y = torch.cat([y, torch.zeros(40, 4, dtype=torch.int64)], 1)
    shots = torch.tensor([2.0] * 5 + [0, 0]).expand(40, 7)
    expected, found = (
        fit_calibration(logits, y),
        fit_calibration(padded, padded_y, shots, is_query),
    )
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-9)
    scaled = found(padded, shots).softmax(-1)
    torch.testing.assert_close(scaled[:, :15, :5], expected(logits).softmax(-1))
    assert not scaled[:, :, 5:].any()


def test_without_errors_the_temperature_is_positive():
    y = torch.arange(5).expand(2, 5)
    logits = 3.0 * torch.eye(5).expand(2, 5, 5)
    probability = float(fit_calibration(logits, y)(logits).softmax(-1).amax(-1).mean())
    assert probability == pytest.approx(11 / 12, abs=1e-6), "Platt's target for 10 queries"
    constant = fit_calibration(torch.zeros(2, 5, 5), y)
    assert math.isfinite(constant.temperature)
    reversed_ = fit_calibration(-logits, y)
    assert reversed_.temperature > 100, "logits that are worse than chance get no weight"


def test_a_calibration_is_stored_as_numbers():
    calibration = Calibration(2.5, 0.1, -0.2)
    assert Calibration.from_json(calibration.to_json()) == calibration
    for values in ({"temperature": 0}, {"temperature": math.nan}, {"bias": math.inf}):
        with pytest.raises(ConfigError):
            Calibration.from_json(values)
    logits = torch.randn(3, 4, 5)
    assert torch.equal(Calibration()(logits), logits)


def test_scores_by_hand():
    p = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    y = np.array([1, 0])
    np.testing.assert_allclose(brier_scores(p, y), [0.25 + 0.49 + 0.04, 2])
    likelihoods = negative_log_likelihoods(p, y)
    assert likelihoods[0] == pytest.approx(-math.log(0.3)) and 700 < likelihoods[1] < math.inf


def test_the_calibration_error_by_hand():
    """Two levels of confidence share no bin, however many predictions have the same."""
    confidence = np.repeat([0.6, 0.9], [40, 60])
    correct = np.concatenate([np.arange(40) < 30, np.arange(60) < 51])
    episode = np.tile(np.arange(10), 10)
    found = measure_calibration_error(confidence, correct, episode, seed=0)
    assert found.error == pytest.approx(0.4 * abs(0.6 - 0.75) + 0.6 * abs(0.9 - 0.85))
    np.testing.assert_allclose(found.confidence, [0.6, 0.9])
    np.testing.assert_allclose(found.accuracy, [0.75, 0.85])
    assert found.count.tolist() == [40, 60]
    order = np.random.default_rng(0).permutation(100)
    again = measure_calibration_error(confidence[order], correct[order], episode[order], seed=0)
    assert again.error == pytest.approx(found.error) and again.ci95 == pytest.approx(found.ci95)


def test_the_calibration_error_of_frequencies_is_small_and_its_interval_covers():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 20_000)
    episode = np.arange(20_000) // 20
    correct = rng.uniform(size=20_000) < confidence
    found = measure_calibration_error(confidence, correct, episode, seed=0)
    assert len(found.count) == BINS and found.count.min() > 1000
    assert found.error < 0.02
    assert (
        np.mean((found.accuracy_low < found.confidence) & (found.confidence < found.accuracy_high))
        > 0.8
    )
    over = measure_calibration_error(
        confidence, rng.uniform(size=20_000) < confidence - 0.1, episode, 0
    )
    assert over.error == pytest.approx(0.1, abs=0.02) and over.error > 5 * over.ci95


def test_intervals_treat_an_episode_as_one_observation():
    """Predictions that are all correct or all wrong together say less than independent ones."""
    rng = np.random.default_rng(0)
    confidence = np.full(2000, 0.5)
    episode = np.arange(2000) // 20
    together = np.repeat(rng.uniform(size=100) < 0.7, 20)
    apart = rng.uniform(size=2000) < 0.7
    wide, narrow = (
        measure_calibration_error(confidence, correct, episode, 0).ci95
        for correct in (together, apart)
    )
    assert wide > 3 * narrow
