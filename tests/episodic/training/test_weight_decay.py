"""Decoupled weight decay, and training from given initial values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from episodic.algorithms.maml_plus_plus import MAMLPlusPlus
from episodic.algorithms.meta_sgd import MetaSGD
from episodic.core.objective import Objective
from episodic.data.sampling import SinusoidSampler
from episodic.engine.learner import MetaLearner
from episodic.models import conv4, mlp
from episodic.training import loop
from episodic.training.config import TrainingConfig

CONFIG = TrainingConfig(
    iterations=1, meta_batch=4, queries=5, validate_every=1, meta_lr=0.01, schedule="constant"
)


def sines(split: str) -> SinusoidSampler:
    return SinusoidSampler((0.1, 5.0), (0.0, math.pi), (-5.0, 5.0), 0, split, shots=5, queries=5)


def learner() -> MetaLearner:
    return MetaLearner(mlp.MLP((8,)).build((1,), 1), MetaSGD(0.01, 1), Objective("regression"))


def train(config: TrainingConfig, **options) -> loop.TrainingResult:
    episodes = sines("validation")(torch.arange(20))
    return loop.train(learner(), sines("train"), episodes, config, **options)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_step_subtracts_a_fraction_of_the_weights_only(optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    start = learner().init(config.seed)
    plain, decayed = (train(replace(config, weight_decay=w)).theta for w in (0.0, 3.0))
    for name, p in start.items():
        is_weight = p.ndim > 1 and not name.startswith("rate.")
        expected = plain[name] - (0.01 * 3.0 * p if is_weight else 0)
        torch.testing.assert_close(decayed[name], expected, rtol=0, atol=1e-6, msg=name)
    assert sum(p.ndim > 1 and not name.startswith("rate.") for name, p in start.items()) == 2


def test_norms_do_not_decay():
    model = conv4.Conv4(filters=4).build((1, 14, 14), 3)
    names = loop.list_decayed_names(
        MetaLearner(model, MAMLPlusPlus(0.1, 2), Objective("classification"))
    )
    assert len(names) == 5 and not set(names) & set(model.norm_names)
    assert all(name.endswith(".weight") for name in names)


def test_training_starts_at_the_initial_values_and_cannot_become_worse():
    """The initial values are validated, so a training that only harms returns them."""
    good = train(replace(CONFIG, iterations=60, validate_every=20)).theta
    harmful = replace(CONFIG, iterations=3, validate_every=1, meta_lr=0.1)
    result = train(harmful, initial=good)
    assert result.iteration == 0 and all(torch.equal(result.theta[n], good[n]) for n in good)
    assert [row["iteration"] for row in result.history.validation] == [0, 1, 2, 3]
    assert train(harmful).iteration > 0, "without initial values there is nothing to return to"


def test_initial_values_are_copied():
    initial = {"head.bias": torch.tensor([0.5])}
    train(replace(CONFIG, iterations=2), initial=initial)
    assert initial["head.bias"].item() == 0.5


class Killed(Exception):
    pass


def test_a_resumed_training_keeps_the_initial_values(tmp_path):
    config = replace(CONFIG, iterations=20, validate_every=5, checkpoint_every=5, weight_decay=1.0)
    initial = train(replace(CONFIG, iterations=5)).theta
    expected = train(config, initial=initial)

    def kill(iteration, figures):
        if iteration == 12:
            raise Killed

    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(config, initial=initial, checkpoint_path=path, on_progress=kill)
    resumed = train(config, initial=initial, checkpoint_path=path)
    assert resumed.resumed_at == 10 and vars(resumed.history) == vars(expected.history)
    assert all(torch.equal(resumed.theta[name], p) for name, p in expected.theta.items())
