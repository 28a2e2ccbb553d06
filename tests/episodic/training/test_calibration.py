"""Calibration: fits against plain code, known miscalibration, and errors by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import episodic
from episodic.algorithms.protonet import ProtoNet
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.data.stored_episodes import StoredEpisodes
from episodic.engine.learner import MetaLearner
from episodic.models.mlp import MLP
from episodic.training import model_folder
from episodic.training.calibration import (
    BINS,
    Calibration,
    brier_scores,
    calibrate,
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


def test_an_adapted_model_applies_the_calibration_of_its_mode(tmp_path):
    """That of inductive batch norm, also from a folder; another one is refused."""
    config = {
        "algorithm": {"name": "protonet"},
        "model": {"name": "mlp", "hidden": []},
        "batch_norm": "transductive",
        "kind": "classification",
        "ways": 3,
        "shots": 2,
        "classes": 0,
        "input": [4],
        "inputs": {"kind": "numbers"},
    }
    episodes = noisy_episodes(1)
    x, y, query = episodes.support_x[0], episodes.support_y[0].tolist(), episodes.query_x[0]
    scalings = {"transductive": {"temperature": 9.0}, "inductive": {"temperature": 4.0}}

    def predict(name: str, **more: object) -> np.ndarray:
        learner = model_folder.build_learner(config)
        model_folder.save(tmp_path / name, [learner.init(0)], config | more)
        adapted = episodic.load(tmp_path / name).adapt(x.numpy(), y)
        adapted.save(tmp_path / f"{name} adapted")
        again = episodic.load_adapted(tmp_path / f"{name} adapted")
        probabilities = adapted.predict_proba(query.numpy())
        np.testing.assert_array_equal(again.predict_proba(query.numpy()), probabilities)
        return probabilities

    raw, scaled = predict("raw"), predict("scaled", calibration=scalings)
    expected = torch.from_numpy(raw).log().div(4).softmax(-1)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    with pytest.raises(model_folder.ModelFolderError, match="temperature is 0"):
        predict("invalid", calibration={"inductive": {"temperature": 0}})


def sharpened(factor: float) -> MetaLearner:
    """Prototypical networks whose logits are multiplied by a factor."""

    @dataclass(frozen=True)
    class Sharpened(ProtoNet):
        def query_outputs(self, learner, theta, episode, batch_norm):
            return factor * super().query_outputs(learner, theta, episode, batch_norm)

    return MetaLearner(MLP(()).build((4,), 0), Sharpened(), Objective("classification"))


def noisy_episodes(tasks: int = 60, shots: tuple[int, ...] = (2, 2, 2)) -> Episode:
    generator = random_numbers.generator(1, "episodes")
    means = torch.randn(tasks, 3, 4, generator=generator)

    def draw(counts: tuple[int, ...]):
        y = torch.arange(3).repeat_interleave(torch.tensor(counts))
        x = means[:, y] + 1.5 * torch.randn(tasks, len(y), 4, generator=generator)
        return x, y.expand(tasks, -1)

    return Episode(*draw(shots), *draw((10, 10, 10)), 3)


def test_a_learner_is_calibrated_on_its_own_outputs():
    """The temperature is proportional to the scale of the logits, so probabilities are the same."""
    episodes = noisy_episodes()
    found = [calibrate(sharpened(factor), [{}], episodes) for factor in (1.0, 5.0)]
    for mode in ("transductive", "inductive"):
        assert found[1][mode].temperature == pytest.approx(5 * found[0][mode].temperature, rel=1e-4)
    learner = sharpened(5.0)
    logits = learner.query_outputs({}, episodes)
    expected = fit_calibration(logits, episodes.query_y)
    assert found[1]["inductive"].temperature == pytest.approx(expected.temperature, rel=1e-4)
    stored = StoredEpisodes(60, episodes.slice_tasks)
    assert calibrate(learner, [{}], stored) == found[1]


def test_padded_episodes_are_calibrated_as_alone():
    """Episodes of two sizes: padding neither of examples nor of classes counts."""
    small, large = noisy_episodes(30), noisy_episodes(30, (4, 1, 5))
    padded = small._replace(
        support_x=torch.cat([small.support_x, torch.full((30, 4, 4), 9.0)], 1),
        support_y=torch.cat([small.support_y, torch.full((30, 4), 2)], 1),
    )
    sizes = torch.tensor([6, 10]).repeat_interleave(30)
    both = Episode(
        *(torch.cat(pair) for pair in zip(padded.tensors, large.tensors, strict=True)),
        3,
        support_size=sizes,
        query_size=torch.full((60,), 30),
    )
    learner = sharpened(2.0)
    found = calibrate(learner, [{}], both, "vector")["inductive"]
    logits = torch.cat([learner.query_outputs({}, e) for e in (small, large)])
    shots = torch.tensor([[2, 2, 2]] * 30 + [[4, 1, 5]] * 30)
    expected = fit_calibration(logits, both.query_y, shots, kind="vector")
    assert expected.bias != 0
    for key in ("temperature", "weight", "bias"):
        assert getattr(found, key) == pytest.approx(getattr(expected, key), rel=1e-3, abs=1e-4)
