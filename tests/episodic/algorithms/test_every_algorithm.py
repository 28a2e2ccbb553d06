"""Requirements on every registered algorithm."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import ClassSampler
from episodic.datasets import glyphs
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models import conv4
from episodic.training import evaluation, loop
from episodic.training.config import TrainingConfig

WAYS, SHOTS, QUERIES = 5, 1, 5
TEST_EPISODES = 60


class Case(NamedTuple):
    """Settings with which an algorithm trains in seconds.

    steps: inner steps at test time; method: name of the algorithm, if it is not that of the case
    """

    config: dict[str, Any] = {}
    train: dict[str, Any] = {}
    steps: int = 3
    method: str = ""


PRETRAINING = {"ways": 20, "shots": 1, "meta_batch": 2, "iterations": 120, "meta_lr": 0.01}
CASES = {
    "anil": Case({"inner_lr": 2.0, "inner_steps": 3}),
    "anil, nil": Case({"inner_lr": 2.0, "inner_steps": 3, "test": "nil"}, {}, 0, "anil"),
    "baseline_plus_plus": Case({"inner_steps": 20}, PRETRAINING, 20),
    "bd_cspn": Case(),
    "bd_cspn, centred": Case({"centre": True}, {}, 0, "bd_cspn"),
    "boil": Case({"inner_lr": 0.4}),
    "feat": Case({"temperature": 12.0}),
    "finetune": Case({"inner_steps": 20}, PRETRAINING, 20),
    "fomaml": Case({"inner_lr": 0.4}),
    "imaml": Case({"inner_lr": 0.3, "inner_steps": 5, "regularization": 1.0, "cg_steps": 2}, {}, 5),
    "laplacian_shot": Case(),
    "laplacian_shot, class means": Case({"rectify": False}, {}, 0, "laplacian_shot"),
    "logistic": Case({"regularization": 0.1}),
    "logistic, leave one out": Case({}, {"shots": 2, "iterations": 20}, 0, "logistic"),
    "maml": Case({"inner_lr": 0.4}),
    "maml_plus_plus": Case({"inner_steps": 2, "inner_lr": 0.2}, {"iterations": 50}),
    "matching_net": Case(),
    "matching_net, full context": Case({"full_context": True}, {}, 0, "matching_net"),
    "melu": Case({"inner_lr": 0.4}),
    "meta_baseline": Case(),
    "meta_curvature": Case({"inner_lr": 0.4}),
    "meta_lstm": Case({"inner_lr": 0.3, "inner_steps": 2, "hidden": 4}, {"iterations": 60}),
    "meta_sgd": Case({"inner_lr": 0.4}),
    "metaoptnet": Case({}, {"iterations": 40}),
    "metaoptnet, leave one out": Case({"leave_one_out": True}, {"iterations": 40}, 0, "metaoptnet"),
    "protonet": Case(),
    "reptile": Case(
        {"inner_lr": 0.05, "inner_steps": 8, "optimizer": "sgd", "batch": 10, "test_steps": 10},
        {"optimizer": "sgd", "schedule": "linear", "meta_lr": 1.0, "shots": 5, "iterations": 60},
        10,
    ),
    "ridge": Case(),
    "ridge, leave one out": Case({"leave_one_out": True}, {"shots": 2}, 0, "ridge"),
    "simpleshot": Case(),
    "simpleshot, not centred": Case({"centre": False}, {}, 0, "simpleshot"),
    "tim": Case({"gradient_steps": 20}),
    "tim, alpha": Case({"gradient_steps": 20, "alpha": 2.0, "centre": True}, {}, 0, "tim"),
    "transductive_finetune": Case({"gradient_steps": 10}, PRETRAINING, 0),
}
ORDER_DEPENDENT = {"matching_net, full context"}
"""Cases whose predictions depend on the order of the support set."""

EQUIVARIANT = {
    name
    for name, case in CASES.items()
    if ALGORITHMS[case.method or name](**case.config).test_variant.any_ways
} - ORDER_DEPENDENT
"""Cases that are equivariant to label permutations: no class has parameters of its own."""

BASE = TrainingConfig(
    iterations=80,
    meta_batch=8,
    queries=QUERIES,
    meta_lr=0.01,
    validate_every=1000,
    checkpoint_every=5,
)


@cache
def glyph_images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Glyphs of a few alphabets; first rows and counts of their classes."""
    drawn = [torch.from_numpy(glyphs.draw_alphabet(alphabet)) for alphabet in range(6)]
    images = torch.cat([alphabet.reshape(-1, 1, glyphs.SIZE, glyphs.SIZE) for alphabet in drawn])
    counts = torch.full((len(images) // glyphs.WRITERS,), glyphs.WRITERS)
    return images, counts.cumsum(0) - counts, counts


def sampler(
    split: str,
    ways: int = WAYS,
    shots: int = SHOTS,
    labels: Any = "episode",
    queries: int = QUERIES,
) -> ClassSampler:
    images, offsets, counts = glyph_images()
    half = len(counts) // 2
    rows = slice(0, half) if split == "train" else slice(half, None)
    return ClassSampler(images, offsets[rows], counts[rows], 0, split, ways, shots, queries, labels)


def learner(name: str) -> MetaLearner:
    module = ALGORITHMS[CASES[name].method or name]
    method = module(**CASES[name].config)
    outputs = method.count_model_outputs(WAYS, len(sampler("train").counts))
    return MetaLearner(
        conv4.Conv4(12).build((1, 28, 28), outputs), method, Objective("classification")
    )


def trained(name: str, **changes: Any) -> loop.TrainingResult:
    config = replace(BASE, **CASES[name].train)
    episodes = sampler(
        "train", config.ways or WAYS, config.shots or SHOTS, learner(name).algorithm.labels
    )
    validation = sampler("validation")(torch.arange(5))
    options = {
        key: changes.pop(key) for key in ("checkpoint_path", "on_progress") if key in changes
    }
    return loop.train(learner(name), episodes, validation, replace(config, **changes), **options)


def test_every_registered_algorithm_is_covered():
    assert {case.method or name for name, case in CASES.items()} == set(ALGORITHMS.keys())


@pytest.mark.parametrize("name", CASES)
def test_training_improves_accuracy(name):
    """The trained model beats the untrained one by more than both intervals."""
    test, method = sampler("test")(torch.arange(TEST_EPISODES)), learner(name)
    steps = evaluation.count_inner_steps(method, CASES[name].steps)
    after, before = (
        mean_ci95(evaluation.episode_scores(method, theta, test, steps, 20)[0])
        for theta in (trained(name).theta, method.init(BASE.seed))
    )
    assert after[0] - after[1] > before[0] + before[1], f"{after} after training, {before} before"
    assert after[0] - after[1] > 2 / WAYS, "twice chance"


@pytest.mark.parametrize("name", CASES)
def test_training_is_deterministic_and_resumes_to_the_same_bytes(name, tmp_path):
    def stop(iteration: int, figures: dict[str, float]) -> None:
        if iteration == 7:
            raise KeyboardInterrupt

    few = {"iterations": 9, "meta_batch": 2}
    once, again = trained(name, **few), trained(name, **few)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(name, **few, checkpoint_path=path, on_progress=stop)
    resumed = trained(name, **few, checkpoint_path=path)
    assert resumed.resumed_at == 5
    for other in (again, resumed):
        assert all(torch.equal(other.theta[key], p) for key, p in once.theta.items())
        assert other.history == once.history
    start = learner(name).init(BASE.seed)
    assert any(not torch.equal(start[key], p) for key, p in once.theta.items()), "it moved"


def doubled(episode: Episode) -> Episode:
    return episode._replace(support_x=episode.support_x.double(), query_x=episode.query_x.double())


def meta(name: str) -> dict[str, torch.Tensor]:
    return {key: p.double() for key, p in learner(name).init(1).items()}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_tasks_is_one_task_after_the_other(name):
    method = learner(name)
    config = replace(BASE, **CASES[name].train)
    episode = doubled(
        sampler("train", config.ways or WAYS, config.shots or SHOTS, method.algorithm.labels)(
            torch.arange(3)
        )
    )
    whole = meta_gradient(method, meta(name), episode)
    parts = [meta_gradient(method, meta(name), episode.slice_tasks(t, t + 1)) for t in range(3)]
    for key in whole.gradient:
        mean = torch.stack([task.gradient[key] for task in parts]).mean(0)
        torch.testing.assert_close(whole.gradient[key], mean, rtol=1e-8, atol=1e-10)
    one_by_one = torch.cat(
        [
            query_outputs(name, task)
            for task in (doubled(four_episodes()).slice_tasks(t, t + 1) for t in range(4))
        ]
    )
    torch.testing.assert_close(
        query_outputs(name, doubled(four_episodes())), one_by_one, rtol=1e-8, atol=1e-10
    )


def four_episodes() -> Episode:
    return sampler("test")(torch.arange(4))


def query_outputs(name: str, episode: Episode) -> torch.Tensor:
    method = learner(name)
    steps = evaluation.count_inner_steps(method, 2)
    *_, theta = evaluation.adaptation_steps(method, meta(name), episode, steps)
    return method.test_variant.query_outputs(theta, episode)


@pytest.mark.parametrize("name", CASES)
def test_query_labels_do_not_affect_predictions(name):
    episode = doubled(four_episodes())
    poisoned = episode._replace(query_y=torch.full_like(episode.query_y, 10**6))
    assert torch.equal(query_outputs(name, episode), query_outputs(name, poisoned))


@pytest.mark.parametrize("name", sorted(EQUIVARIANT))
def test_predictions_are_equivariant_to_label_permutation(name):
    episode = doubled(four_episodes())
    order = torch.tensor([3, 0, 4, 2, 1])
    renamed = episode._replace(support_y=order[episode.support_y])
    # A class that was k is order[k] now.
    torch.testing.assert_close(
        query_outputs(name, renamed)[..., order], query_outputs(name, episode), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("name", CASES)
def test_label_permutation_effect_is_measured(name):
    """It is 0 for equivariant algorithms, but not for MAML, whose head differs per class."""
    method, episode = learner(name), sampler("test")(torch.arange(20))
    steps = evaluation.count_inner_steps(method, 3)
    original, _ = evaluation.episode_scores(method, method.init(1), episode, steps, 20)
    others = [
        evaluation.permuted_label_scores(
            method, [method.init(1)], episode, steps, 0, number
        ).numpy()
        for number in range(3)
    ]
    assert all(((other >= 0) & (other <= 1)).all() for other in others)
    if name in EQUIVARIANT:
        assert max(float(abs(other - original).max()) for other in others) < 1e-6
    if name == "maml":
        assert min(float(abs(other - original).max()) for other in others) > 0
    subset = evaluation.permuted_label_scores(
        method, [method.init(1)], episode.slice_tasks(5, 20), steps, 0, 1, first=5
    ).numpy()
    assert (subset == others[1][5:]).mean() > 0.9, "grouping changes no more than rounding"


def test_permuting_labels_also_reorders_the_support_set(monkeypatch):
    """Order-sensitive models, such as an LSTM, must show a label-permutation effect."""
    episode, seen = doubled(sampler("test", shots=2)(torch.arange(4))), []

    class Looked(Exception):
        pass

    def look(learner, members, permuted, *_):
        seen.append(permuted)
        raise Looked

    monkeypatch.setattr(evaluation, "adaptation_curve", look)
    with pytest.raises(Looked):
        evaluation.permuted_label_scores(learner("protonet"), [meta("protonet")], episode, 0, 0, 1)
    (permuted,) = seen
    assert torch.equal(permuted.support_y, torch.arange(WAYS).repeat_interleave(2).expand(4, -1)), (
        "class after class again"
    )
    for t in range(4):
        rows = [
            (episode.support_x[t] == x).flatten(1).all(1).nonzero()[0, 0].item()
            for x in permuted.support_x[t]
        ]
        assert sorted(rows) == list(range(2 * WAYS)) and rows != sorted(rows)
        names = {
            int(episode.support_y[t, row]): int(label)
            for row, label in zip(rows, permuted.support_y[t], strict=True)
        }
        assert [names[int(y)] for y in episode.query_y[t]] == permuted.query_y[t].tolist(), (
            "queries are renamed as their class is"
        )


@pytest.mark.parametrize("name", CASES)
def test_other_shots_and_ways_than_trained(name):
    more_shots = doubled(sampler("test", shots=3)(torch.arange(2)))
    assert query_outputs(name, more_shots).shape == (2, WAYS * QUERIES, WAYS)
    more_ways = doubled(sampler("test", ways=7)(torch.arange(2)))
    if learner(name).test_variant.algorithm.any_ways:
        assert query_outputs(name, more_ways).shape == (2, 7 * QUERIES, 7)
    else:
        with pytest.raises(
            ConfigError, match="ways is 7; it must be 5, since the head has one output per class"
        ):
            query_outputs(name, more_ways)
