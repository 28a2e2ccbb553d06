"""Unknown classes and prediction sets of adapted models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import episodic
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.inference.adapted import CHUNK, AdaptedModel
from episodic.inference.labels import AdaptError
from episodic.inference.predictions import UNKNOWN_LABEL, Predictions
from episodic.training import model_folder
from episodic.training.conformal import COVERAGES
from episodic.training.reliability import Reliability, fit_reliability, tabulate_queries
from episodic.training.unknown import SCORES
from tests.episodic.algorithms.test_every_algorithm import learner, sampler, trained
from tests.episodic.inference.reliable import SETS, reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of

CONFIG = {
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


def draw_tasks(tasks: int, purpose: str, queries: int = 10, noise: float = 1.5) -> Episode:
    """Three classes with two support examples of four noisy numbers."""
    generator = random_numbers.generator(0, purpose)
    means = torch.randn(tasks, 3, 4, generator=generator)

    def draw(count: int):
        y = torch.arange(3).repeat_interleave(count)
        x = means[:, y] + noise * torch.randn(tasks, len(y), 4, generator=generator)
        return x, y.expand(tasks, -1)

    return Episode(*draw(2), *draw(queries), 3)


def save_model(folder, *entries: Reliability, **more):
    of_numbers = model_folder.build_learner(CONFIG)
    model_folder.save(folder, [of_numbers.init(0)], CONFIG | more)
    return set_reliability(folder, *entries) if entries else folder


def adapt_clusters(folder, labels=("a", "b", "c")) -> AdaptedModel:
    """Adapt to two examples of each of three classes, at distance 1 from each other."""
    x = np.repeat(np.eye(3, 4, dtype=np.float32) * np.sqrt(0.5), 2, axis=0)
    return episodic.load(folder).adapt(x, np.repeat(np.array(labels), 2))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", ["protonet", "ridge", "maml", "bd_cspn"])
def test_the_familiarity_is_that_of_the_evaluation(name, score, tmp_path):
    """For more queries than a chunk has, two members, and batch norm of the support set."""
    theta = trained(name).theta if name == "ridge" else None  # untrained features amplify rounding
    folder = folder_of(name, tmp_path / "run", 2 if theta is None else 1, theta)
    fitted = reliability(score)
    model = episodic.load(set_reliability(folder, fitted))
    episode = sampler("test", shots=2, queries=CHUNK // 5 + 2)(torch.arange(1))
    adapted = model.adapt(episode.support_x[0], episode.support_y[0])
    found = adapted.predict_all(episode.query_x[0], unknown=True)
    inductive = replace(learner(name), batch_norm="inductive")
    table = tabulate_queries(inductive, model.trained.members, episode)
    expected = table.familiarity(fitted.calibration)[score][0].numpy()
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found.familiarity, expected, atol=1e-5 * scale)
    probabilities = table.scaled_logits(fitted.calibration)[0].softmax(-1).numpy()
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-5)
    assert len(expected) > CHUNK
    assert expected.std() > 1e-3 * scale


def test_an_example_is_unknown_below_the_threshold(tmp_path):
    """At the threshold it is known; the other labels are those without detection."""
    x = np.linspace(0, 3, 13)[:, None] * np.eye(1, 4) + 0.1 * np.eye(1, 4, 1)
    x = x.astype(np.float32)
    adapted = adapt_clusters(save_model(tmp_path / "run", reliability("mean_distance", -9.0)))
    familiarity = adapted.predict_all(x, unknown=True).familiarity
    threshold = float(np.sort(familiarity)[5])
    folder = save_model(tmp_path / "other", reliability("mean_distance", threshold))
    adapted = adapt_clusters(folder)
    plain, labels = adapted.predict(x), adapted.predict(x, unknown=True)
    unknown = familiarity < threshold
    assert unknown.sum() == 5
    assert unknown[-1], "the example that is farthest from all classes is unknown"
    assert (labels[unknown] == UNKNOWN_LABEL).all()
    np.testing.assert_array_equal(labels[~unknown], plain[~unknown])
    assert UNKNOWN_LABEL not in plain
    numbers = adapt_clusters(folder, (1, 2, 3)).predict(x, unknown=True)
    assert set(numbers.tolist()) <= {1, 2, 3, UNKNOWN_LABEL}


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.805, 0.9, 0.99])
def test_a_set_has_all_classes_of_the_minimum_probability(coverage, tmp_path):
    """The most probable first; a coverage between two promised ones gets the larger."""
    adapted = adapt_clusters(save_model(tmp_path / "run", reliability()))
    x = draw_tasks(1, "queries").query_x[0]
    position = next(i for i, promised in enumerate(COVERAGES) if promised >= coverage - 1e-9)
    minimum = SETS.minimum[position]
    expected = [
        [adapted.classes_[k] for k in sorted(range(3), key=lambda k: -row[k]) if row[k] >= minimum]
        for row in adapted.predict_proba(x)
    ]
    assert adapted.predict_set(x, coverage) == expected
    assert adapted.predict_set(x) == adapted.predict_set(x, 0.9)


def test_sets_may_be_empty_and_keep_classes_at_the_minimum():
    probabilities = np.array([[0.29, 0.5, 0.21], [0.09, 0.09, 0.82], [0.09, 0.01, 0.9]])
    found = Predictions((7, 8, 9), probabilities, fitted_sets=SETS)
    assert found.find_sets(0.5) == [[8], [9], [9]]
    assert found.find_sets(0.7) == [[8, 7], [9], [9]]
    assert found.find_sets(0.9) == [[8, 7, 9], [9, 7, 8], [9, 7]]
    even = Predictions((7, 8, 9), np.full((1, 3), 1 / 3), fitted_sets=SETS)
    assert even.find_sets(0.6) == [[]]


def test_new_tasks_are_covered_as_promised(tmp_path):
    """Sets of calibrated probabilities; without the calibration, coverage would differ."""
    of_numbers = model_folder.build_learner(CONFIG)
    inductive = replace(of_numbers, batch_norm="inductive")
    fitted = fit_reliability(inductive, [{}], draw_tasks(300, "validation"))
    assert abs(np.log(fitted.calibration.temperature)) > 0.2, "calibration matters"
    model, tasks = episodic.load(save_model(tmp_path / "run", fitted)), draw_tasks(60, "test")
    covered = []
    for i in range(60):
        adapted = model.adapt(tasks.support_x[i], tasks.support_y[i])
        sets = adapted.predict_set(tasks.query_x[i], 0.9)
        covered += [y in found for y, found in zip(tasks.query_y[i].tolist(), sets, strict=True)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.025)


def test_one_pass_gives_everything(tmp_path, monkeypatch):
    """Examples are preprocessed once; without detection, no distances are computed."""
    adapted = adapt_clusters(save_model(tmp_path / "run", reliability("mean_distance", -1.0)))
    calls = []
    inputs, distances = adapted.inputs, AdaptedModel.distances
    monkeypatch.setattr(
        AdaptedModel, "distances", lambda *args: calls.append("distances") or distances(*args)
    )
    counted = replace(adapted, inputs=lambda x: calls.append("inputs") or inputs(x))
    found = counted.predict_all(np.eye(4, dtype=np.float32), unknown=True)
    assert calls == ["inputs", "distances"]
    assert found.labels.shape == found.familiarity.shape == found.is_unknown.shape == (4,)
    assert len(found.find_sets(0.9)) == 4
    calls.clear()
    counted.predict_set(np.eye(4, dtype=np.float32))
    assert calls == ["inputs"]


def test_the_statements_of_the_closest_size_are_used(tmp_path):
    near, far = reliability("energy", 99.0, 3, 2), reliability("energy", -99.0, 20, 5)
    adapted = adapt_clusters(save_model(tmp_path / "run", far, near))
    x = np.eye(4, dtype=np.float32)
    assert (adapted.predict(x, unknown=True) == UNKNOWN_LABEL).all()
    assert adapted.reliability_note is None
    adapted = adapt_clusters(save_model(tmp_path / "other", far))
    assert UNKNOWN_LABEL not in adapted.predict(x, unknown=True)
    assert adapted.reliability_note == (
        "calibrated on 20-way 5-shot episodes; this task has 3 classes with 2 examples each:"
        " probabilities, the threshold for unknown classes and the coverage of prediction sets are"
        " approximate"
    )
    uneven = episodic.load(tmp_path / "run").adapt(x, ["a", "b", "c", "c"])
    assert "this task has 3 classes with 1 to 2 examples each" in uneven.reliability_note


def test_models_that_cannot_say_so(tmp_path):
    x = np.eye(4, dtype=np.float32)

    def refuse(message: str, adapted: AdaptedModel, sets: bool = True) -> None:
        with pytest.raises(AdaptError, match=message):
            adapted.predict(x, unknown=True)
        if sets:
            with pytest.raises(AdaptError, match=message):
                adapted.predict_set(x)

    before = adapt_clusters(save_model(tmp_path / "before"))
    refuse("an earlier version trained it. Train it again", before)
    assert before.reliability_note is None
    assert before.predict_all(x).fitted_sets is None
    closed = replace(reliability(), unknown=None)
    folder = save_model(tmp_path / "closed", closed)
    refuse("Train it again with episodes.open above 0", adapt_clusters(folder), sets=False)
    assert len(adapt_clusters(folder).predict_set(x)) == 4
    named = adapt_clusters(save_model(tmp_path / "run", reliability()), ("a", "b", "unknown"))
    refuse("a class has the label 'unknown'.*rename the class", named, sets=False)
    assert "unknown" in {label for labels in named.predict_set(x, 0.99) for label in labels}
    for coverage in (0.3, 1.0, 90):
        with pytest.raises(ConfigError, match=r"coverage is .*must be between 0\.5 and 0\.99"):
            named.predict_set(x, coverage)
