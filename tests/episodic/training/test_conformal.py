"""Prediction sets: the quantile by hand, and the promise over tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.training.conformal import COVERAGES, PredictionSets, fit_prediction_sets


def test_the_minimum_by_hand():
    """One query per task: the ceil((K + 1) * coverage)-th largest of K probabilities."""
    p = (torch.arange(1, 100, dtype=torch.float64) / 100)[torch.randperm(99)]
    sets = fit_prediction_sets(p[:, None])
    assert sets.find_minimum(0.9) == pytest.approx(0.10), "the 90th largest of 99"
    assert sets.find_minimum(0.5) == pytest.approx(0.50)
    assert sets.find_minimum(0.99) == pytest.approx(0.01)
    nine = fit_prediction_sets(torch.linspace(0.1, 0.9, 9).double()[:, None])
    assert nine.find_minimum(0.9) == pytest.approx(0.1)
    assert nine.find_minimum(0.91) == 0, "9 tasks are too few for 91 %"
    assert nine.tasks == 9


def test_tasks_have_equal_weight_and_padding_none():
    """A task with two queries and one with four, of which the last three are padding."""
    p = torch.tensor([[0.9, 0.3, 0.5, 0.5], [0.6, 0.1, 0.1, 0.1], [0.8, 0.7, 0.2, 0.1]])
    is_query = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    sets = fit_prediction_sets(p, is_query)
    # Weights 1/8, 1/16, 1/16, 1/4, 1/8, 1/16, 1/16 of .9, .8, .7, .6, .3, .2, .1: 1/2 at .6.
    for coverage, minimum in ((0.5, 0.6), (0.51, 0.3), (0.63, 0.2), (0.7, 0.1), (0.76, 0.0)):
        assert sets.find_minimum(coverage) == pytest.approx(minimum), coverage


def test_sets_contain_likely_classes():
    sets = fit_prediction_sets(torch.linspace(0.01, 0.99, 99).double()[:, None])
    p = torch.tensor([[0.5, 0.4, 0.1], [0.34, 0.33, 0.33]])
    assert sets(p.double(), 0.65).tolist() == [[True, True, False], [False, False, False]]
    assert sets(p, 0.654).tolist() == sets(p, 0.66).tolist() != sets(p, 0.65).tolist()
    for coverage in (0.49, 0.995, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"coverage is .*; it must be between 0.5 and 0.99"):
            sets(p, coverage)
    assert PredictionSets.from_json(sets.to_json()) == sets
    for minimum in ([0.5] * 49, [0.1, *[0.5] * 49], [1.5] * 50, [float("nan")] * 50):
        with pytest.raises(ConfigError, match="must be 50 probabilities in descending order"):
            PredictionSets.from_json({"tasks": 9, "minimum": minimum})
    assert len(COVERAGES) == 50 and COVERAGES[-1] == 0.99


@pytest.mark.parametrize("tasks", [20, 200])
def test_new_tasks_are_covered_as_promised(tasks):
    """Queries of a task are similar, so pooling them as independent ones would cover too little.

    The mean coverage over many calibration sets is at least as promised, and at most larger by
    1 / (K + 1).
    """
    generator = random_numbers.generator(0, "tasks")

    def draw(k: int) -> torch.Tensor:
        level = 2 * torch.randn(k, 1, generator=generator, dtype=torch.float64)
        noise = torch.randn(k, 10, generator=generator, dtype=torch.float64)
        return (level + 0.3 * noise).sigmoid()

    covered = []
    for _ in range(400):
        sets, new = fit_prediction_sets(draw(tasks)), draw(200)
        covered.append(float((new >= sets.find_minimum(0.9)).double().mean()))
    error = 3 * np.std(covered) / len(covered) ** 0.5
    assert 0.9 - error < np.mean(covered) < 0.9 + 1 / (tasks + 1) + error
    assert error < 0.012
