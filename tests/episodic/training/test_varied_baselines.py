"""Baselines on episodes of different sizes: each has the score that it has alone."""

from __future__ import annotations

import pytest
import torch

from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.models import conv4, mlp
from episodic.training import baselines
from tests.episodic.engine.test_ragged_classes import VARIED_WAYS, Tasks, draw_tasks


def doubled(episode: Episode) -> Episode:
    return episode._replace(support_x=episode.support_x.double(), query_x=episode.query_x.double())


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    """Padded with values and labels that would show."""
    tasks = draw_tasks(VARIED_WAYS * 4)
    return Tasks([doubled(task) for task in tasks.alone], doubled(tasks.together))


def test_the_nearest_class_mean_ignores_padding(tasks):
    expected = torch.cat([baselines.input_centroid_scores(task) for task in tasks.alone])
    assert torch.equal(baselines.input_centroid_scores(tasks.together), expected)
    assert expected.std() > 0.1


def test_fine_tuning_ignores_padding_and_outputs_without_a_class(tasks):
    """The head has four outputs; a task of two classes uses two of them."""
    model = mlp.MLP((6,)).build((3,), 4)
    learner = MetaLearner(model, Algorithm(), Objective("classification"))
    together = baselines.random_init_scores(learner, 0, tasks.together, 0.4)
    alone = [
        baselines.random_init_scores(learner, 0, task, 0.4, i) for i, task in enumerate(tasks.alone)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == torch.float64 and together.std() > 0.1


def test_the_rate_of_fine_tuning_is_chosen_on_episodes_alone(monkeypatch):
    """Batch norm: padding would affect its statistics."""
    monkeypatch.setattr(baselines, "HIGHER_RATES", ())
    tasks = draw_tasks(VARIED_WAYS, (1, 8, 8))
    learner = MetaLearner(
        conv4.Conv4(4, 2).build((1, 8, 8), 4), Algorithm(), Objective("classification")
    )
    scores = {
        rate: torch.cat(
            [
                baselines.random_init_scores(learner, 0, task, rate, i)
                for i, task in enumerate(tasks.alone)
            ]
        ).mean()
        for rate in baselines.FINE_TUNING_RATES
    }
    chosen = baselines.choose_fine_tuning_rate(learner, 0, tasks.together)
    assert chosen == max(scores, key=lambda rate: float(scores[rate]))
