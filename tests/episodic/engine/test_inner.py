"""The inner loop without a graph: the steps are those of the optimizer, and only few are kept."""

from __future__ import annotations

import weakref

import pytest
import torch

from episodic.engine import inner_optimizers
from episodic.engine.inner import InnerLoop, adapted_parameters, graph_free_steps


def quadratic(update=None) -> InnerLoop:
    """Gradient descent on w^2 for two tasks: each step halves w."""
    return InnerLoop(
        {"w": torch.tensor([[8.0], [16.0]])},
        lambda theta, step: theta["w"].square().sum(1),
        update or inner_optimizers.sgd(0.25),
    )


def test_steps_without_a_graph():
    steps = list(graph_free_steps(quadratic(), 3))
    assert [theta["w"].flatten().tolist() for theta in steps] == [[8, 16], [4, 8], [2, 4], [1, 2]]
    assert all(theta["w"].is_leaf for theta in steps)


@pytest.mark.parametrize("steps", [0, 3])
def test_adapted_parameters_are_those_after_the_last_step(steps):
    *_, expected = graph_free_steps(quadratic(), steps)
    assert torch.equal(adapted_parameters(quadratic(), steps)["w"], expected["w"])


def test_the_parameters_of_few_steps_are_alive_at_once():
    descend = inner_optimizers.sgd(0.25)
    values, counts = [], []

    def update(theta, gradient, step, loss):
        theta = descend(theta, gradient, step, loss)
        values.append(weakref.ref(theta["w"].untyped_storage()))
        counts.append(sum(value() is not None for value in values))
        return theta

    adapted_parameters(quadratic(update), 30)
    assert max(counts) <= 3
    values.clear()
    list(graph_free_steps(quadratic(update), 30))
    assert max(counts) == 30, "shows that this test can fail"
