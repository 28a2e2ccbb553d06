"""Evaluation uses no query label to adapt, and scores do not depend on chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from episodic.algorithms.maml import MAML
from episodic.core import random_numbers, statistics
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.data.stored_episodes import StoredEpisodes
from episodic.engine.inner import expand
from episodic.engine.learner import MetaLearner
from episodic.models import conv4, mlp
from episodic.training import baselines, evaluation

LEARNER = MetaLearner(
    conv4.Conv4(4, 2).build((1, 8, 8), 3),
    MAML(0.3, 1),
    Objective("classification"),
)


def episodes(tasks: int = 6, queries: int = 4) -> Episode:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(tasks, 3, 1, 8, 8, generator=generator)
    labels = torch.arange(3)

    def draw_examples(n: int):
        x = means.repeat_interleave(n, 1) + 0.8 * torch.randn(
            tasks, 3 * n, 1, 8, 8, generator=generator
        )
        return x, labels.repeat_interleave(n).expand(tasks, -1)

    return Episode(*draw_examples(2), *draw_examples(queries))


def meta():
    return LEARNER.init(0)


def test_curve_is_adaptation_step_by_step():
    episode = episodes()
    curve = evaluation.adaptation_curve(LEARNER, [meta()], episode, range(4))
    theta = expand(meta(), episode.tasks)
    for step in range(4):
        for mode in ("transductive", "inductive"):
            outputs = LEARNER.query_outputs(theta, episode, mode)
            torch.testing.assert_close(
                curve.score[mode][:, step], (outputs.argmax(-1) == episode.query_y).float().mean(1)
            )
        theta = {n: p.detach().requires_grad_() for n, p in theta.items()}
        loss = LEARNER.support_loss(theta, episode).sum()
        gradient = torch.autograd.grad(
            loss, list(theta.values()), allow_unused=True, materialize_grads=True
        )
        theta = {n: p - 0.3 * g for (n, p), g in zip(theta.items(), gradient, strict=True)}
    assert not torch.equal(curve.score["transductive"], curve.score["inductive"])


def test_poisoned_query_labels_do_not_change_predictions():
    episode = episodes()
    poisoned = episode._replace(query_y=(episode.query_y + 1) % 3)
    a, b = (
        evaluation.adaptation_curve(LEARNER, [meta()], e, range(4)) for e in (episode, poisoned)
    )
    assert torch.equal(a.outputs, b.outputs)
    assert not torch.equal(a.score["transductive"], b.score["transductive"])


def test_ensemble_predictions_are_mean_probabilities():
    episode, a = episodes(), meta()
    b = {
        name: p + 0.3 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view(p.shape)
        for name, p in a.items()
    }
    first, second, both = (
        evaluation.adaptation_curve(LEARNER, members, episode, [0, 2])
        for members in ([a], [b], [a, b])
    )
    expected = (first.outputs.softmax(-1) + second.outputs.softmax(-1)) / 2
    torch.testing.assert_close(both.outputs.exp(), expected)
    right = (expected[1].argmax(-1) == episode.query_y).float().mean(1)
    torch.testing.assert_close(both.score[LEARNER.batch_norm][:, 1], right)
    assert not torch.equal(first.outputs, both.outputs)


@pytest.mark.parametrize("padded", [False, True])
def test_stored_episodes_have_the_scores_of_those_in_memory(padded):
    episode, built = episodes(), []
    if padded:  # the last episode has one support example less
        support_size = torch.tensor([6, 6, 6, 6, 6, 5])
        episode = episode._replace(support_size=support_size, query_size=torch.full((6,), 12))

    def build(first: int, last: int) -> Episode:
        built.append(last - first)
        return episode.slice_tasks(first, last)

    stored = StoredEpisodes(episode.tasks, build)
    expected = evaluation.episode_scores(LEARNER, meta(), episode, 2, 4)
    np.testing.assert_array_equal(
        evaluation.episode_scores(LEARNER, meta(), stored, 2, 4), expected
    )
    if padded:
        assert stored.is_padded and set(built) == {1}, "batch norm takes one at a time"
    else:
        assert built == [1, 4, 2]


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_chunk_size_does_not_affect_scores(chunk):
    episode = episodes()
    whole, _ = evaluation.episode_scores(LEARNER, meta(), episode, 2, 100)
    parts, _ = evaluation.episode_scores(LEARNER, meta(), episode, 2, chunk)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_random_weights_have_the_streams_of_earlier_versions(monkeypatch):
    # The purposes are part of the keys, so another spelling would change every result.
    model, seeds = type(LEARNER.model), []
    original = model.init

    def init(self, generator):
        seeds.append(generator.initial_seed())
        return original(self, generator)

    monkeypatch.setattr(model, "init", init)
    LEARNER.init(3)
    baselines.random_init_scores(LEARNER, 3, episodes(2), 0.1, first=5)
    purposes = ["initial weights", "random initialisation 5", "random initialisation 6"]
    keys = [random_numbers.key(3, purpose) for purpose in purposes]
    assert [seed % (1 << 64) for seed in seeds] == [key % (1 << 64) for key in keys]


def test_random_init_does_not_depend_on_grouping_and_learns():
    episode = episodes(tasks=12, queries=10)
    whole = baselines.random_init_scores(LEARNER, 0, episode, 0.1)
    parts = torch.cat(
        [
            baselines.random_init_scores(LEARNER, 0, episode.slice_tasks(i, i + 5), 0.1, first=i)
            for i in (0, 5, 10)
        ]
    )
    torch.testing.assert_close(
        whole, parts, atol=1 / 30 + 1e-6, rtol=0
    )  # at most one of 30 queries on the edge
    assert whole.mean() > 1 / 3 + 0.1


def test_fine_tuning_takes_the_rate_that_does_best(monkeypatch):
    monkeypatch.setattr(baselines, "HIGHER_RATES", ())
    episode = episodes(tasks=12, queries=10)
    scores = {
        rate: baselines.random_init_scores(LEARNER, 0, episode, rate).mean()
        for rate in baselines.FINE_TUNING_RATES
    }
    best = max(scores, key=lambda rate: scores[rate])
    assert baselines.choose_fine_tuning_rate(LEARNER, 0, episode) == best
    assert scores[best] > min(scores.values())


def test_fine_tuning_of_short_features_takes_a_higher_rate():
    """Higher rates are tried while they help, so the baseline does not end at the edge."""
    episode = episodes(tasks=12, queries=10)
    short = episode._replace(support_x=episode.support_x / 50, query_x=episode.query_x / 50)
    learner = MetaLearner(
        mlp.MLP(()).build((1, 8, 8), 3), MAML(0.3, 1), Objective("classification")
    )
    best = baselines.choose_fine_tuning_rate(learner, 0, short)
    assert best in baselines.HIGHER_RATES
    scores = [baselines.random_init_scores(learner, 0, short, rate).mean() for rate in (0.4, best)]
    assert scores[1] > scores[0] + 0.1


def test_nearest_class_mean_of_the_inputs_by_hand():
    support = torch.tensor(
        [[[0.0, 0.0], [0.0, 2.0], [5.0, 5.0], [7.0, 5.0]]]
    )  # class means (0, 1) and (6, 5)
    query = torch.tensor([[[0.0, 3.0], [6.0, 6.0], [3.1, 3.0], [1.0, 1.0]]])
    episode = Episode(support, torch.tensor([[0, 0, 1, 1]]), query, torch.tensor([[0, 1, 1, 1]]))
    assert baselines.input_centroid_scores(episode).tolist() == [0.75]


def test_mean_ci95_by_hand():
    mean, half = statistics.mean_ci95(np.array([0.0, 1.0, 1.0, 0.0]))
    t = 3.182446  # the 97.5 % quantile of Student's distribution with 3 degrees of freedom
    assert mean == 0.5 and half == pytest.approx(t * (1 / 3) ** 0.5 / 2, rel=2e-3)
    assert np.isnan(statistics.mean_ci95(np.array([1.0]))[1])


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 9, 39, 999])
def test_students_quantile(freedom):
    expected = stats.t.ppf(0.975, freedom)
    assert statistics.student_quantile(freedom) == pytest.approx(expected, rel=2e-3)


def test_the_interval_of_a_binomial_share_is_wilsons():
    """Whose farther end is the distance: 49 of 50, and 50 of 50, with the normal quantile."""
    z = statistics.NORMAL_QUANTILE
    for successes in (49, 50):
        share = successes / 50
        expected = stats.binomtest(successes, 50).proportion_ci(method="wilson")
        half = statistics.share_half_width(share, (share * (1 - share) / 50) ** 0.5, z, 50)
        assert share - half == pytest.approx(expected.low)
    _, half = statistics.mean_ci95(np.ones(40), share=True)
    assert 0.05 < half < 0.15, "no error among 40 episodes is not certainty"
    assert statistics.mean_ci95(np.ones(40))[1] == 0
    _, of_errors = statistics.mean_ci95(np.zeros(40), share=True)
    assert of_errors == pytest.approx(half), "0 and 1 are symmetric"
