"""What left-out support examples teach, against plain code and on tasks of known difficulty."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import episodic
from episodic.cli import app
from episodic.core import random_numbers
from episodic.core.episode import Episode
from episodic.inference.heads import CALIBRATED, HEADS, PARTIAL_FINETUNE
from episodic.inference.labels import AdaptError
from episodic.inference.support_reliability import (
    PRIOR_MEAN,
    PRIOR_SD,
    learn_on_support,
    predict_left_out,
)
from episodic.preprocessing.encoders.architectures import LITE0
from episodic.training import evaluation
from episodic.training.calibration import negative_log_likelihoods

WIDTH = 1280


def draw_task(seed: int, counts: tuple[int, ...], queries: int = 10, noise: float = 5.0):
    """Features of classes around random means: support set, labels, queries and their labels."""
    generator = random_numbers.generator(seed, "task")
    means = torch.randn(len(counts), WIDTH, generator=generator)

    def draw(numbers):
        y = torch.arange(len(counts)).repeat_interleave(torch.tensor(numbers))
        return means[y] + noise * torch.randn(len(y), WIDTH, generator=generator), y

    return *draw(counts), *draw([queries] * len(counts))


def support_of(x: torch.Tensor, y: torch.Tensor) -> Episode:
    counts = y.bincount()
    ways = len(counts) if bool((counts == counts[0]).all()) else 0
    return Episode(x[None], y[None], x[None, :0], y[None, :0], ways)


@pytest.mark.parametrize("head", CALIBRATED)
def test_a_left_out_example_has_no_influence_on_its_own_logits(head):
    """Logits are those of a head that another call fits without the example."""
    x, y, *_ = draw_task(0, (3, 2, 4))
    learner = episodic.from_encoder(LITE0, head)
    inductive = replace(learner.trained.learner, batch_norm="inductive")
    params = learner.trained.members[0]
    theta = evaluation.adapt(inductive, params, support_of(x, y))
    left_out = predict_left_out(inductive, params, theta, support_of(x, y))
    logits, labels = left_out.logits, left_out.y
    assert logits.shape == (6, 3), "two fits: the smallest class has two examples"
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    for fit, rows in enumerate(([0, 3, 5], [1, 4, 6])):
        kept = [i for i in range(len(y)) if i not in rows]
        rest = support_of(x[kept], y[kept])._replace(query_x=x[None, rows], query_y=y[None, rows])
        if head == "logistic":  # the regularization of all examples, for a head without these
            algorithm = inductive.algorithm
            strength = float(algorithm.choose_regularization(inductive, params, support_of(x, y)))
            fixed = replace(inductive, algorithm=replace(algorithm, regularization=strength))
            theta = evaluation.adapt(fixed, params, rest)
        expected = inductive.query_outputs(theta, rest)[0]
        found = logits[3 * fit : 3 * fit + 3]
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
        for k in range(3):
            score = left_out.known[3 * fit + k], left_out.unknown[3 * fit + k]
            expected = plain_scores(x, y, rows, k)
            assert [float(s) for s in score] == pytest.approx(expected, rel=1e-3)


def plain_scores(x: torch.Tensor, y: torch.Tensor, left_out: list[int], k: int) -> list[float]:
    """The score of the example of class k that is left out, with and without its class."""
    x = x.double()
    variance = sum(float((x[y == c] - x[y == c].mean(0)).square().sum()) for c in y.unique())
    variance /= len(y) - len(y.unique())
    kept = [i for i in range(len(y)) if i not in left_out]
    scores = []
    for classes in ([0, 1, 2], [c for c in range(3) if c != k]):
        means = {c: x[[i for i in kept if y[i] == c]].mean(0) for c in classes}
        counts = {c: sum(int(y[i]) == c for i in kept) for c in classes}
        excess = {c: variance / n - variance / (n + 1) for c, n in counts.items()}
        unit = [
            float((means[a] - means[b]).square().sum()) - excess[a] - excess[b]
            for a in classes
            for b in classes
            if a != b
        ]
        query = x[left_out[k]]
        nearest = min(float((query - means[c]).square().sum()) - excess[c] for c in classes)
        scores.append(-nearest / np.mean(unit))
    return scores


def test_the_temperature_minimizes_the_loss_with_its_prior():
    x, y, *_ = draw_task(1, (6,) * 4)
    learner = episodic.from_encoder(LITE0)
    params, support = learner.trained.members[0], support_of(x, y)
    task = (
        learner.trained.learner,
        params,
        evaluation.adapt(learner.trained.learner, params, support),
    )
    learned = learn_on_support(*task, support)
    found = learned.calibration
    logits, labels, known, unknown = predict_left_out(*task, support)
    true = (logits / found.temperature).softmax(-1)[torch.arange(24), labels].sort().values
    # The 23rd largest of 24 is reached with a probability of at least 0.9 = 22.5 / 25.
    assert learned.sets.find_minimum(0.9) == pytest.approx(float(true[1]))
    assert learned.sets.find_minimum(0.99) == 0, "24 examples are too few"
    threshold = learned.unknown.threshold
    index = [float((known >= t).double().mean() - (unknown >= t).double().mean()) for t in known]
    best = float((known >= threshold).double().mean() - (unknown >= threshold).double().mean())
    assert best == pytest.approx(max(index)) and best > 0.3

    def loss(t: float) -> float:
        prior = (math.log(t) - PRIOR_MEAN) ** 2 / (2 * PRIOR_SD**2)
        return float(F.cross_entropy(logits / t, labels, reduction="sum")) + prior

    best = min(np.geomspace(0.01, 10, 5001), key=loss)
    assert found.temperature == pytest.approx(best, rel=0.03)
    assert abs(math.log(best) - PRIOR_MEAN) > 0.1, "the examples say something else"


@pytest.mark.parametrize("head", ["nearest_mean", "simpleshot", "logistic"])
def test_calibrated_probabilities_are_likelier(head):
    """On tasks for which the default scale of these heads is too small."""
    learner = episodic.from_encoder(LITE0, head)
    losses = []
    for seed in range(8):
        x, y, query, query_y = draw_task(seed, (5,) * 5)
        adapted = learner.adapt(x.numpy(), y.tolist())
        raw = adapted.outputs(query).double().softmax(-1).numpy()
        both = raw, adapted.predict_proba(query.numpy())
        losses.append([negative_log_likelihoods(p, query_y.numpy()).mean() for p in both])
        assert (both[0].argmax(1) == both[1].argmax(1)).all()
    before, after = np.mean(losses, 0)
    assert after < 0.5 * before


@pytest.mark.parametrize("head", CALIBRATED)
def test_sets_and_unknown_classes(head):
    """Sets contain the true class as often as promised; queries of other classes are unknown."""
    learner = episodic.from_encoder(LITE0, head)
    covered, known, unknown = [], [], []
    for seed in range(10):
        x, y, query, query_y = draw_task(seed, (5,) * 5, noise=3.5)
        others = draw_task(1000 + seed, (2,) * 5, noise=3.5)[2]
        adapted = learner.adapt(x.numpy(), y.tolist())
        predicted = adapted.predict_all(query.numpy(), unknown=True)
        members = predicted.find_members(0.9)
        covered.append(members[np.arange(50), query_y.numpy()].mean())
        known.append(1 - predicted.is_unknown.mean())
        unknown.append(1 - adapted.predict_all(others.numpy(), unknown=True).is_unknown.mean())
    assert np.mean(covered) > 0.87
    assert np.mean(known) > np.mean(unknown) + 0.4, "0 is chance"


def test_what_two_classes_or_single_examples_do_not_teach():
    x, y, *_ = draw_task(5, (3, 3))
    adapted = episodic.from_encoder(LITE0).adapt(x.numpy(), y.tolist())
    assert adapted.predict_set(x.numpy(), 0.8) and not adapted.detects_unknown
    with pytest.raises(AdaptError, match="at least three distinct classes are needed"):
        adapted.predict(x.numpy(), unknown=True)
    x, y, *_ = draw_task(5, (3, 3, 3))
    x[3:6] = x[:3]  # the unit of distances would be that of two equal means
    adapted = episodic.from_encoder(LITE0).adapt(x.numpy(), y.tolist())
    assert adapted.predict_set(x.numpy(), 0.8) and not adapted.detects_unknown
    with pytest.raises(AdaptError, match="correct labels if classes have the same examples"):
        adapted.predict(x.numpy(), unknown=True)
    x, y, *_ = draw_task(5, (3, 1, 3))
    single = episodic.from_encoder(LITE0).adapt(x.numpy(), y.tolist())
    with pytest.raises(AdaptError, match="a class has one example"):
        single.predict_set(x.numpy())
    x, y, *_ = draw_task(5, (3, 4, 3))
    uneven = episodic.from_encoder(LITE0).adapt(x.numpy(), y.tolist())
    assert uneven.reliability_note is None, "it was learned on this very task"
    transductive = episodic.from_encoder(LITE0, "tim").adapt(x.numpy(), y.tolist())
    with pytest.raises(AdaptError, match="of the heads, only nearest_mean, ridge"):
        transductive.predict(x.numpy(), unknown=True)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_second_example_probabilities_are_not_calibrated(head):
    if head == PARTIAL_FINETUNE:
        pytest.skip("it takes images: test_partial_finetune.py")
    x, y, *_ = draw_task(2, (3, 3, 3))
    learner = episodic.from_encoder(LITE0, head)
    enough = learner.adapt(x.numpy(), y.tolist())
    assert (enough.calibrated_on is not None) == (head in CALIBRATED)
    single = learner.adapt(x[:-2].numpy(), y[:-2].tolist())
    assert single.calibrated_on is None and single.calibration.temperature == 1
    assert "reliability" not in learner.config, "a task does not change the learner"


def test_an_adapted_folder_keeps_the_calibration(tmp_path):
    x, y, query, _ = draw_task(3, (3, 3, 3))
    adapted = episodic.from_encoder(LITE0).adapt(x.numpy(), y.tolist())
    temperature = adapted.calibration.temperature
    assert temperature != 1
    adapted.save(tmp_path / "adapted")
    loaded = episodic.load_adapted(tmp_path / "adapted")
    assert loaded.calibration == adapted.calibration
    assert loaded.calibrated_on == "left-out support examples"
    expected = adapted.predict_proba(query.numpy())
    np.testing.assert_array_equal(loaded.predict_proba(query.numpy()), expected)
    logits = adapted.outputs(query).double()
    np.testing.assert_allclose(expected, (logits / temperature).softmax(-1), rtol=1e-6)
    told = CliRunner().invoke(app, ["info", str(tmp_path / "adapted")]).stdout
    assert (
        f"probability calibrated on left-out support examples, temperature {temperature:.2f}\n"
        in told
    )
    for head, counts, reason in (
        ("ridge", (3, 1), "a class has one example, and calibration needs two of each"),
        ("tim", (3, 3), "of the heads, only nearest_mean, ridge, logistic, "),
    ):
        x, y, *_ = draw_task(4, counts)
        episodic.from_encoder(LITE0, head).adapt(x.numpy(), y.tolist()).save(tmp_path / head)
        told = CliRunner().invoke(app, ["info", str(tmp_path / head)]).stdout
        assert f"probability not calibrated: {reason}" in told
