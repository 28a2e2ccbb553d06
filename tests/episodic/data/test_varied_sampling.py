"""Episodes of different ways and shots: parts of the largest episodes, with fair sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import NoSynchronization

from episodic.algorithms import maml, protonet
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.core.episode_size import size_bounds
from episodic.core.objective import Objective
from episodic.data.sampling import ClassSampler
from episodic.data.varied_sampling import VariedClassSampler
from episodic.engine.learner import MetaLearner
from episodic.models import conv4, mlp
from episodic.training import loop
from episodic.training.config import TrainingConfig

WAYS, SHOTS, QUERIES = (2, 6), (1, 4), 3
COUNTS = torch.tensor([7, 30, 12, 9, 60, 8, 15, 20])


def largest(**changes) -> ClassSampler:
    """A sampler of examples whose value is their row."""
    rows = torch.arange(int(COUNTS.sum())).float()[:, None]
    options = {"seed": 0, "split": "train", "ways": 6, "shots": 4, "queries": QUERIES} | changes
    return ClassSampler(rows, COUNTS.cumsum(0) - COUNTS, COUNTS, **options)


def varied(unbalanced: bool = False, **changes) -> VariedClassSampler:
    return VariedClassSampler(largest(**changes), WAYS, SHOTS, unbalanced)


@pytest.mark.parametrize("unbalanced", [False, True])
def test_an_episode_is_part_of_the_largest_one(unbalanced):
    """It has the first classes, and of each class the first support examples and all queries."""
    index = torch.arange(300)
    sampler = varied(unbalanced)
    whole, episode = sampler.sampler(index), sampler(index)
    ways, shots = sampler.draw_sizes(index, sampler.sampler.draw_rows(index)[0])
    assert torch.equal(episode.task_ways, ways) and episode.ways == 6
    for i in range(300):
        w, n, m = int(ways[i]), int(episode.support_size[i]), int(episode.query_size[i])
        assert shots[i, :w].min() >= 1 and (shots[i, w:] == 0).all()
        support = whole.support_x[i].view(6, 4)
        expected = [support[c, : shots[i, c]] for c in range(w)]
        assert torch.equal(episode.support_x[i, :n, 0], torch.cat(expected))
        assert episode.support_y[i, :n].tolist() == [
            c for c in range(w) for _ in range(shots[i, c])
        ]
        assert torch.equal(episode.query_x[i, :m], whole.query_x[i, : w * QUERIES])
        assert torch.equal(episode.query_y[i, :m], whole.query_y[i, : w * QUERIES])
        assert (episode.support_x[i, n:] == episode.support_x[i, n - 1]).all(), "padding"
        if not unbalanced:
            assert len(set(shots[i, :w].tolist())) == 1
    assert torch.equal(episode.noise, whole.noise)


def test_sizes_are_uniform_between_the_bounds():
    n = 20_000
    sampler, index = varied(), torch.arange(20_000)
    ways, shots = sampler.draw_sizes(index, torch.zeros(n, 6, dtype=torch.int64))
    for values, (low, high) in ((ways, WAYS), (shots[:, 0], SHOTS)):
        count = high - low + 1
        frequency = values.bincount(minlength=high + 1)[low:] / n
        assert len(frequency) == count
        bound = 4 * math.sqrt((1 / count) * (1 - 1 / count) / n)
        assert (frequency - 1 / count).abs().max() < bound
    correlation = torch.corrcoef(torch.stack([ways, shots[:, 0]]).double())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(n)


def test_unbalanced_shots_are_those_of_meta_dataset():
    """The formula of section 3.2 in numpy, with bounds that do not clamp."""
    sampler = VariedClassSampler(largest(shots=4), (6, 6), (1, 4), True)
    index = torch.arange(500)
    classes = sampler.sampler.draw_rows(index)[0]
    _, shots = sampler.draw_sizes(index, classes)
    key = random_numbers.key(0, "sizes of train episodes")
    bits = random_numbers.random_bits(key, index, 8)
    alpha = random_numbers.uniform(bits[:, 2:], math.log(0.5), math.log(2)).numpy()
    mean = 1 + random_numbers.integers_below(bits[:, 1], 4).numpy()
    assert alpha.min() < -0.6 and alpha.max() > 0.6
    clamped = 0
    for i in range(500):
        weight = np.exp(alpha[i]) * COUNTS.numpy()[classes[i].numpy()]
        ratio = weight / weight.sum()
        total = 6 * mean[i]
        expected = np.floor(ratio * (total - 6)) + 1
        clamped += int((expected > 4).sum())
        assert shots[i].tolist() == expected.clip(1, 4).tolist()
        assert expected.sum() <= total
    assert 0 < clamped < 500, "the largest classes reach the bound"
    large = shots[classes == 4].double().mean()
    small = shots[classes == 0].double().mean()
    assert large > small + 1, "large classes have more examples"


def test_an_episode_does_not_depend_on_its_batch():
    for sampler in (varied(), varied(True)):
        batch = sampler(torch.arange(20))
        for i in (0, 7, 19):
            single = sampler(torch.tensor([i]))
            for key in ("support_x", "support_y", "query_x", "query_y", "noise", "support_size"):
                assert torch.equal(getattr(single, key), getattr(batch, key)[i : i + 1])
            assert single.task_ways == batch.task_ways[i]
    assert not torch.equal(
        varied(seed=1)(torch.arange(20)).task_ways, varied()(torch.arange(20)).task_ways
    )


def test_episodes_are_drawn_without_reading_values():
    sampler, index = varied(True), torch.arange(3)
    with NoSynchronization():
        sampler(index)


def test_training_refuses_varied_ways_for_a_fixed_head():
    learner = MetaLearner(mlp.MLP((8,)).build((1,), 6), maml.MAML(), Objective("classification"))
    config = TrainingConfig(iterations=2, meta_batch=2, queries=QUERIES)
    message = "ways is 'drawn per episode'; it must be a fixed number, because the head of MAML has"
    with pytest.raises(ConfigError, match=message):
        loop.train(learner, varied(), largest(split="validation")(torch.arange(2)), config)


def test_labels_of_the_split():
    episode = varied(labels="split")(torch.arange(50))
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        rows = x[..., 0].long()
        first = (COUNTS.cumsum(0) - COUNTS)[y]
        assert (rows >= first).all() and (rows < first + COUNTS[y]).all()


def test_equal_ways_need_no_class_counts():
    sampler = VariedClassSampler(largest(), (6, 6), SHOTS)
    assert sampler(torch.arange(4)).task_ways is None


@pytest.mark.parametrize(
    ("ways", "shots", "error"),
    [
        ((0, 6), SHOTS, r"ways is \[0, 6\]; it must be bounds from at least 1 to 6, the ways of"),
        ((2, 5), SHOTS, r"ways is \[2, 5\]; it must be bounds"),
        (WAYS, (3, 2), r"shots is \[3, 2\]; it must be bounds from at least 1 to 4, the shots of"),
    ],
)
def test_bounds_that_do_not_match_are_errors(ways, shots, error):
    with pytest.raises(ConfigError, match=error):
        VariedClassSampler(largest(), ways, shots)


def test_unbalanced_query_sets_are_an_error():
    with pytest.raises(ConfigError, match=r"query_balance is 0.5; it must be null if episodes"):
        varied(query_balance=0.5)


def test_bounds_of_sizes():
    assert size_bounds(None, 5) == (5, 5) and size_bounds(3, 5) == (3, 3)
    assert size_bounds((2, 9), 5) == (2, 9)
    for settings, error in (
        ({"ways": (5, 2)}, r"ways is \[5, 2\]; it must be in ascending order"),
        ({"ways": [5, 2]}, r"ways is \[5, 2\]; it must be in ascending order"),
        ({"ways": (5, 5)}, r"ways is \[5, 5\]; it must be 5 for a fixed number, or have a larger"),
        ({"ways": (1, 2, 3)}, r"ways is \[1, 2, 3\]; it must have 2 values"),
        ({"ways": ()}, r"ways is \[\]; it must have 2 values"),
        ({"shots": (0, 2)}, "shots.0 is 0; it must be at least 1"),
        ({"ways": 0}, "ways is 0; it must be at least 1"),
        ({"unbalanced": True, "shots": 3}, "unbalanced is true; it must be false unless shots has"),
    ):
        with pytest.raises(ConfigError, match=error):
            TrainingConfig(**settings)
    assert TrainingConfig(ways=[2, 5]) == TrainingConfig(ways=(2, 5))


class Killed(Exception):
    pass


@pytest.mark.parametrize("network", ["conv4", "mlp"])
@pytest.mark.parametrize("method", [protonet.ProtoNet(), maml.MAML()], ids=["protonet", "maml"])
def test_training_on_varied_episodes_resumes_to_the_same_bytes(network, method, tmp_path):
    """With batch norm, tasks are computed alone; without it, together."""
    ways = (3, 3) if isinstance(method, maml.MAML) else (2, 3)
    images = torch.randint(0, 256, (80, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images = images.byte()
    classes = images.split(10)
    model = {"conv4": conv4.Conv4(4, 2), "mlp": mlp.MLP((8,))}[network]
    learner = MetaLearner(
        model.build((1, 8, 8), method.count_model_outputs(3, 8)),
        method,
        Objective("classification"),
    )
    sampler = VariedClassSampler(ClassSampler.from_classes(classes, 3, 4, 2), ways, (1, 4), True)
    validation = ClassSampler.from_classes(classes, 3, 1, 2, split="validation")(torch.arange(4))
    config = TrainingConfig(
        iterations=8, meta_batch=4, queries=2, validate_every=4, checkpoint_every=3
    )
    plan = loop.choose_training_plan(sampler, config, torch.device("cpu"), learner)
    assert plan.trim is (network == "conv4")
    path = tmp_path / "state.safetensors"

    def kill(iteration, figures):
        if iteration == 5:
            raise Killed

    with pytest.raises(Killed):
        loop.train(learner, sampler, validation, config, checkpoint_path=path, on_progress=kill)
    resumed = loop.train(learner, sampler, validation, config, checkpoint_path=path)
    whole = loop.train(learner, sampler, validation, config)
    assert resumed.resumed_at == 3
    assert all(torch.equal(resumed.theta[name], p) for name, p in whole.theta.items())
    fixed = loop.train(learner, sampler.sampler, validation, config)
    assert not torch.equal(
        *(torch.cat([p.flatten() for p in r.theta.values()]) for r in (whole, fixed))
    )
