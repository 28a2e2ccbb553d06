"""MeLU's damping and order of adaptation, and an additive model that starts at fitted means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from episodic.algorithms.melu import MeLU
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.core.objective import Objective
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models.embeddings import BIAS, EMBEDDING, Embeddings
from episodic.training import evaluation

TOKENS, WIDTH = 12, 3
SIZES = torch.tensor([1, 2, 6, 4])


def build(hidden: tuple[int, ...] = (), **settings) -> MetaLearner:
    spec = Embeddings(TOKENS, WIDTH, hidden, additive=True, start=3.5)
    method = MeLU(**{"inner_lr": 0.5, "inner_steps": 1, "damping": 4.0} | settings)
    return MetaLearner(spec.build((2, 3), 1), method, Objective("regression"))


def start(learner: MetaLearner, factors: float = 0.0) -> Params:
    """The meta-parameters in float64, with random biases and factors of the given size."""
    rng = torch.Generator().manual_seed(1)
    biases = torch.randn(TOKENS, generator=rng)
    embeddings = factors * torch.randn(TOKENS, WIDTH, generator=rng)
    meta = learner.init(0) | learner.model.start_at(biases, embeddings)
    return {name: p.double() for name, p in meta.items()}


def ratings() -> Episode:
    """Users with 1, 2, 6 and 4 ratings, and padding that must not count."""
    rng = torch.Generator().manual_seed(2)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randint(0, TOKENS, (len(SIZES), n, 2, 3), generator=rng)
        return x, 3 + torch.randn(len(SIZES), n, 1, generator=rng).double()

    return Episode(*draw(6), *draw(5), support_size=SIZES)


def base(meta: Params, x: torch.Tensor) -> torch.Tensor:
    """The prediction for all users, `(tasks, n)`: the mean, and biases of what is known."""
    known = x > 0
    fields = (meta[EMBEDDING][x] * known[..., None]).sum(-2)
    return (
        3.5
        + (meta[BIAS][x] * known).sum((-1, -2))
        + (fields[..., 0, :] * fields[..., 1, :]).sum(-1)
    )


def predict(learner: MetaLearner, meta: Params, episode: Episode, steps: int) -> torch.Tensor:
    *_, theta = evaluation.adaptation_steps(learner, meta, episode, steps)
    return learner.model(theta, episode.query_x)[..., 0].detach()


def test_the_untrained_model_is_the_shifted_mean():
    """Without factors, one step adds the posterior mean of the offset of the user."""
    learner, episode = build(), ratings()
    meta = start(learner)
    offsets = [
        (episode.support_y[t, :n, 0] - base(meta, episode.support_x)[t, :n]).sum() / (n + 4.0)
        for t, n in enumerate(SIZES.tolist())
    ]
    expected = base(meta, episode.query_x) + torch.stack(offsets)[:, None]
    for steps in (1, 3):
        torch.testing.assert_close(
            predict(learner, meta, episode, steps), expected, rtol=0, atol=1e-12
        )


def test_many_steps_are_ridge_regression_on_the_factors_of_the_item():
    learner, episode = build(inner_lr=0.1), ratings()
    meta = start(learner, factors=0.4)

    def design(x: torch.Tensor) -> np.ndarray:
        factors = (meta[EMBEDDING][x[:, 0]] * (x[:, 0] > 0)[..., None]).sum(1)
        return np.concatenate([np.ones((len(x), 1)), factors.numpy()], 1)

    predicted = predict(learner, meta, episode, 400)
    for t, n in enumerate(SIZES.tolist()):
        a = design(episode.support_x[t, :n])
        y = (episode.support_y[t, :n, 0] - base(meta, episode.support_x)[t, :n]).numpy()
        weight = np.linalg.solve(a.T @ a + 4.0 * np.eye(1 + WIDTH), a.T @ y)
        expected = base(meta, episode.query_x)[t].numpy() + design(episode.query_x[t]) @ weight
        np.testing.assert_allclose(predicted[t].numpy(), expected, rtol=0, atol=1e-9)


def test_the_meta_gradient_is_that_of_finite_differences():
    learner, episode = build(hidden=(4,), inner_steps=3, head_steps=1), ratings()
    meta = start(learner, factors=0.4)
    meta[HEAD[0]] += 0.3
    gradient = meta_gradient(learner, meta, episode).gradient
    for name, position in ((BIAS, (3,)), (EMBEDDING, (5, 1)), ("hidden0.weight", (2, 4))):
        losses = []
        for shift in (1e-5, -1e-5):
            moved = meta[name].clone()
            moved[position] += shift
            losses.append(float(meta_gradient(learner, meta | {name: moved}, episode).loss.mean()))
        slope = (losses[0] - losses[1]) / 2e-5
        assert slope != 0 and gradient[name][position].item() == pytest.approx(slope, rel=1e-5)


def test_the_last_layer_adapts_first():
    learner, episode = build(hidden=(4,), head_steps=2), ratings()
    meta = start(learner, factors=0.4)
    meta[HEAD[0]] += 0.3
    steps = list(evaluation.adaptation_steps(learner, meta, episode, 3))
    for taken, theta in enumerate(steps):
        for name in (*HEAD, "hidden0.weight"):
            moved = not torch.equal(theta[name], meta[name].expand_as(theta[name]))
            assert moved == (taken > (0 if name in HEAD else 2)), (taken, name)
        assert all(torch.equal(theta[t], meta[t].expand_as(theta[t])) for t in (EMBEDDING, BIAS))
