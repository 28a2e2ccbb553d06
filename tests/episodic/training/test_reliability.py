"""Reliability: what validation episodes teach, and what an adapted model does with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import episodic
from episodic.algorithms.bd_cspn import BDCSPN
from episodic.algorithms.protonet import ProtoNet
from episodic.core import random_numbers
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.data.stored_episodes import StoredEpisodes
from episodic.data.unknown_queries import OTHER_CLASS
from episodic.engine.learner import MetaLearner
from episodic.models.mlp import MLP
from episodic.training import model_folder
from episodic.training.calibration import Calibration, fit_calibration
from episodic.training.conformal import COVERAGES, fit_prediction_sets
from episodic.training.reliability import (
    Reliability,
    fit_reliability,
    read_reliability,
    select_reliability,
    tabulate_queries,
)
from episodic.training.unknown import SCORES, UnknownDetector


def test_an_adapted_model_applies_the_calibration_of_its_mode(tmp_path):
    """That of inductive batch norm and the closest size, also from a folder."""
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
    entries = {
        mode: [
            {"ways": 5, "shots": 1, "calibration": {"temperature": 2.0}},
            {"ways": 3, "shots": 2, "calibration": {"temperature": temperature}},
        ]
        for mode, temperature in (("transductive", 9.0), ("inductive", 4.0))
    }

    def predict(name: str, **more: object) -> np.ndarray:
        learner = model_folder.build_learner(config)
        model_folder.save(tmp_path / name, [learner.init(0)], config | more)
        adapted = episodic.load(tmp_path / name).adapt(x.numpy(), y)
        adapted.save(tmp_path / f"{name} adapted")
        again = episodic.load_adapted(tmp_path / f"{name} adapted")
        probabilities = adapted.predict_proba(query.numpy())
        np.testing.assert_array_equal(again.predict_proba(query.numpy()), probabilities)
        return probabilities

    raw, scaled = predict("raw"), predict("scaled", reliability=entries)
    expected = torch.from_numpy(raw).log().div(4).softmax(-1)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    invalid = {"ways": 3, "shots": 2, "calibration": {"temperature": 0}}
    for mode in ("inductive", "transductive"):
        with pytest.raises(model_folder.ModelFolderError, match="temperature is 0"):
            predict("invalid", reliability={mode: [invalid]})
    for broken in ({"ways": 3}, {"ways": 3, "shots": 2, "unknown": {"score": "energy"}}):
        with pytest.raises(model_folder.ModelFolderError, match="lacks"):
            predict("invalid", reliability={"inductive": [broken]})


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
    found = [
        fit_reliability(sharpened(factor), [{}], episodes).calibration for factor in (1.0, 5.0)
    ]
    assert found[1].temperature == pytest.approx(5 * found[0].temperature, rel=1e-4)
    learner = sharpened(5.0)
    logits = learner.query_outputs({}, episodes)
    expected = fit_calibration(logits, episodes.query_y)
    assert found[1].temperature == pytest.approx(expected.temperature, rel=1e-4)
    stored = StoredEpisodes(60, episodes.slice_tasks)
    assert fit_reliability(learner, [{}], stored).calibration == found[1]
    assert fit_reliability(learner, [{}], episodes, kind=None).calibration is None


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
    found = fit_reliability(learner, [{}], both, kind="vector").calibration
    logits = torch.cat([learner.query_outputs({}, e) for e in (small, large)])
    shots = torch.tensor([[2, 2, 2]] * 30 + [[4, 1, 5]] * 30)
    expected = fit_calibration(logits, both.query_y, shots, kind="vector")
    assert expected.bias != 0
    for key in ("temperature", "weight", "bias"):
        assert getattr(found, key) == pytest.approx(getattr(expected, key), rel=1e-3, abs=1e-4)


def test_prediction_sets_use_the_shots_of_each_class():
    """As an adapted model does: a calibration with a bias depends on the numbers of examples."""
    episodes = noisy_episodes(60, (4, 1, 5))
    learner = sharpened(2.0)
    found = fit_reliability(learner, [{}], episodes, kind="vector")
    assert abs(found.calibration.bias) > 0.05
    scaled = found.calibration(learner.query_outputs({}, episodes), torch.tensor([[4, 1, 5]]))
    true = scaled.softmax(-1).gather(-1, episodes.query_y[..., None])[..., 0]
    expected = fit_prediction_sets(true).minimum
    np.testing.assert_allclose(found.sets.minimum, expected, atol=1e-5)


def other_classes(tasks: int = 60, m: int = 8):
    """Queries far from the classes of `noisy_episodes`."""
    generator = random_numbers.generator(2, "other classes")
    x = 4 * torch.randn(tasks, m, 4, generator=generator)
    return x, lambda first, end: (x[first:end], torch.full((m,), OTHER_CLASS))


@pytest.mark.parametrize("padded", [False, True])
def test_unknown_queries_change_no_other_prediction(padded):
    episodes = noisy_episodes()
    x, unknown = other_classes()
    if padded:  # sizes without padding, and one that is smaller
        size = torch.tensor([30] * 59 + [20])
        episodes = episodes._replace(support_size=torch.full((60,), 6), query_size=size)
    learner = sharpened(1.0)
    closed = tabulate_queries(learner, [{}], episodes)
    opened = tabulate_queries(learner, [{}], episodes, unknown)
    assert opened.logits.shape == (60, 38, 3)
    assert (opened.is_query & ~opened.is_known).sum(1).tolist() == [8] * 60
    for field in ("logits", "y"):
        torch.testing.assert_close(
            getattr(opened, field)[opened.is_known], getattr(closed, field)[closed.is_known]
        )
    alone = learner.query_outputs({}, episodes._replace(query_x=x, query_size=None))
    found = opened.logits[opened.is_query & ~opened.is_known].view(60, 8, 3)
    torch.testing.assert_close(found, alone.double())
    expected = -(x[:, :, None] - means(episodes)[:, None]).square().sum(-1).amin(-1).double()
    distance = opened.distances["mean_distance"][opened.is_query & ~opened.is_known].view(60, 8)
    torch.testing.assert_close(distance * unit(episodes)[:, None], expected, rtol=1e-5, atol=0)


def means(episodes: Episode) -> torch.Tensor:
    return torch.stack(
        [episodes.support_x[:, episodes.support_y[0] == k].mean(1) for k in range(3)], 1
    )


def unit(episodes: Episode) -> torch.Tensor:
    m = means(episodes)
    pairs = [(m[:, i] - m[:, j]).square().sum(-1) for i, j in ((0, 1), (0, 2), (1, 2))]
    return torch.stack(pairs).mean(0).double()


def test_reliability_of_a_known_distribution():
    """New tasks of the same distribution are covered, and most far queries are detected."""
    episodes, test = noisy_episodes(400), noisy_episodes(800).slice_tasks(400, 800)
    learner = sharpened(3.0)
    fitted = fit_reliability(learner, [{}], episodes, other_classes(400)[1])
    assert (fitted.ways, fitted.shots) == (3, 2)
    assert fitted.unknown.score == "mean_distance", "far queries look certain by their logits"
    table = tabulate_queries(learner, [{}], test, other_classes(800)[1])
    probabilities = table.scaled_logits(fitted.calibration).softmax(-1)
    for coverage in (0.6, 0.8, 0.9, 0.95):
        members = fitted.sets(probabilities, coverage)
        covered = members.gather(-1, table.y.clamp_min(0)[..., None])[..., 0][table.is_known]
        assert float(covered.double().mean()) == pytest.approx(coverage, abs=0.02)
    score = table.familiarity(fitted.calibration)[fitted.unknown.score]
    accepted = score >= fitted.unknown.threshold
    assert accepted[table.is_known].double().mean() > 0.85
    assert accepted[~table.is_known].double().mean() < 0.3
    assert set(table.familiarity(None)) == set(SCORES)


def test_queries_that_are_predicted_together_are_calibrated_without_unknown_ones():
    learner = MetaLearner(
        MLP(()).build((4,), 0), BDCSPN(centre=False), Objective("classification"), "inductive"
    )
    episodes, unknown = noisy_episodes(), other_classes()[1]
    closed, opened = (
        fit_reliability(learner, [{}], episodes, queries) for queries in (None, unknown)
    )
    assert (opened.calibration, opened.sets) == (closed.calibration, closed.sets)
    assert closed.unknown is None and opened.unknown is not None
    table = tabulate_queries(learner, [{}], episodes, unknown)
    alone = tabulate_queries(learner, [{}], episodes)
    assert not torch.allclose(table.logits[table.is_known], alone.logits[alone.is_known])


def test_reliability_is_stored_and_chosen_by_size():
    fitted = fit_reliability(sharpened(1.0), [{}], noisy_episodes(), other_classes()[1])
    assert Reliability.from_json(fitted.to_json()) == fitted
    bare = Reliability(5, 1)
    assert bare.to_json() == {"ways": 5, "shots": 1}
    assert Reliability.from_json(bare.to_json()) == bare
    sizes = [Reliability(5, 1), Reliability(5, 5), Reliability(20, 1)]
    for size, expected in (
        ((5, 1), 0),
        ((5, 3), 1),
        ((5, 2), 0),
        ((3, 1.2), 0),
        ((15, 1), 2),
        ((100, 5), 1),
        ((4, 20), 1),
    ):
        assert select_reliability(sizes, *size) == sizes[expected], size
    assert select_reliability([], 5, 1) is None
    config = {"reliability": {"inductive": [bare.to_json()]}}
    assert read_reliability(config, "transductive") == read_reliability(config) == [bare]
    assert read_reliability({}) == []
    both = replace(bare, calibration=Calibration(2.0), unknown=UnknownDetector("energy", 1.5))
    config["reliability"]["transductive"] = [both.to_json()]
    assert read_reliability(config, "transductive") == [both]


def test_members_of_an_ensemble_are_averaged():
    config = {
        "algorithm": {"name": "protonet"},
        "model": {"name": "mlp", "hidden": [6]},
        "batch_norm": "inductive",
        "kind": "classification",
        "ways": 3,
        "classes": 0,
        "input": [4],
    }
    learner = model_folder.build_learner(config)
    members, episodes = [learner.init(seed) for seed in (0, 1)], noisy_episodes(5)
    both = tabulate_queries(learner, members, episodes)
    apart = [tabulate_queries(learner, [member], episodes) for member in members]
    for name, values in both.distances.items():
        torch.testing.assert_close(values, sum(t.distances[name] for t in apart) / 2)
    p = sum(table.logits.softmax(-1) for table in apart) / 2
    torch.testing.assert_close(both.logits.softmax(-1), p, rtol=1e-5, atol=1e-6)
    assert len(COVERAGES) == 50
