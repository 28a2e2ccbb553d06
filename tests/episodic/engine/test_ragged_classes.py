"""Classification tasks of different ways and shots: each gets the results that it gets alone."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.engine import outer
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.engine.plan import Plan, PlanConfig
from episodic.models import conv4, mlp
from episodic.training import evaluation

TOLERANCE = 1e-12
QUERIES = 2
VARIED_WAYS = [(1, 1), (2, 2, 2), (1, 3, 2, 1), (3, 1, 2)]
"""Shots of each class, per task."""
EQUAL_WAYS = [(1, 1, 1), (2, 2, 2), (1, 3, 2), (3, 1, 2)]
CONFIGS = {
    "imaml": {"inner_lr": 0.05, "inner_steps": 4},
    "meta_lstm": {"inner_steps": 3, "batch": 2, "inner_lr": 0.1, "hidden": 3},
    "reptile": {"inner_lr": 0.02, "inner_steps": 3, "batch": 2},
    "maml_plus_plus": {"inner_steps": 2, "inner_lr": 0.05},
    "matching_net, full context": {"full_context": True, "reads": 2},
    "anil, nil": {"test": "nil"},
    "finetune": {"inner_steps": 3},
    "baseline_plus_plus": {"inner_steps": 3},
}
NAMES = sorted({*ALGORITHMS, *(name for name in CONFIGS if "," in name)})
PLANS = {
    "at once": Plan("batched", 4, 4, ""),
    "unequal shards": Plan("batched", 3, 2, ""),
    "per task": Plan("per_task", 1, 1, ""),
}


class Tasks(NamedTuple):
    """Tasks one by one, as they would be drawn alone, and padded to one batch."""

    alone: list[Episode]
    together: Episode


def draw_tasks(shots: list[tuple[int, ...]], shape: tuple[int, ...] = (3,)) -> Tasks:
    """Draw tasks with these shots per class, and pad them with values that would show."""
    generator = torch.Generator().manual_seed(4)
    alone = []
    for counts in shots:
        ways = len(counts)
        support_y = torch.arange(ways).repeat_interleave(torch.tensor(counts))[None]
        query_y = torch.arange(ways).repeat_interleave(QUERIES)[None]
        support_x, query_x = (
            torch.rand(1, y.shape[1], *shape, generator=generator) for y in (support_y, query_y)
        )
        equal = len(set(counts)) == 1
        size = None if equal else torch.tensor([sum(counts)])
        alone.append(Episode(support_x, support_y, query_x, query_y, ways, support_size=size))
    support, query = (
        max(tensor.shape[1] for tensor in tensors)
        for tensors in zip(*((e.support_y, e.query_y) for e in alone), strict=True)
    )

    def pad(tensor: torch.Tensor, n: int) -> torch.Tensor:
        value = 7 if tensor.is_floating_point() else 1
        padding = tensor.new_full((1, n - tensor.shape[1], *tensor.shape[2:]), value)
        return torch.cat([tensor, padding], 1)

    fields = zip(*(episode.tensors for episode in alone), strict=True)
    widths = (support, support, query, query)
    tensors = [
        torch.cat([pad(tensor, width) for tensor in field])
        for field, width in zip(fields, widths, strict=True)
    ]
    ways = torch.tensor([len(counts) for counts in shots])
    together = Episode(
        *tensors,
        ways=int(ways.max()),
        support_size=torch.tensor([sum(counts) for counts in shots]),
        query_size=ways * QUERIES,
        task_ways=ways if len(ways.unique()) > 1 else None,
    )
    return Tasks(alone, together)


def build(name: str, model=None, outputs: int = 3) -> MetaLearner:
    module = ALGORITHMS[name.partition(",")[0]]
    defaults = {"inner_lr": 0.1} if hasattr(module, "inner_lr") else {}
    method = module(**defaults | CONFIGS.get(name, {}))
    model = model or mlp.MLP((6, 5)).build((3,), method.count_model_outputs(outputs, 5))
    return MetaLearner(model, method, Objective("classification"))


def initialize(learner: MetaLearner) -> dict[str, torch.Tensor]:
    return {key: p.double() for key, p in learner.init(0).items()}


def varies(algorithm) -> bool:
    return algorithm.any_ways or algorithm.labels == "split"


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
@pytest.mark.parametrize("name", NAMES)
def test_padded_tasks_have_the_gradients_of_single_tasks(name, plan):
    learner = build(name)
    tasks = draw_tasks(VARIED_WAYS if varies(learner.algorithm) else EQUAL_WAYS)
    meta = initialize(learner)
    if not learner.handles_padding:  # as `choose_plan` does
        plan = outer.choose_plan(tasks.together, 4, learner=learner)
        assert plan.trim
    singles = [meta_gradient(learner, meta, task, PLANS["per task"]) for task in tasks.alone]
    together = meta_gradient(learner, meta, tasks.together, plan)
    for key in ("loss", "score"):
        expected = torch.stack([getattr(single, key) for single in singles]).mean().item()
        assert getattr(together, key).item() == pytest.approx(expected, abs=TOLERANCE)
    largest = 0.0
    for key in meta:
        expected = torch.stack([single.gradient[key] for single in singles]).mean(0)
        torch.testing.assert_close(together.gradient[key], expected, rtol=0, atol=TOLERANCE)
        largest = max(largest, float(expected.abs().max()))
    assert largest > 1e-4, "there is something to compare"


@pytest.mark.parametrize("name", NAMES)
def test_padded_tasks_are_scored_like_single_tasks(name):
    learner = build(name)
    tasks = draw_tasks(VARIED_WAYS if learner.test_variant.algorithm.any_ways else EQUAL_WAYS)
    meta = initialize(learner)
    steps = evaluation.count_inner_steps(learner, 3)
    score, loss = evaluation.episode_scores(learner, meta, tasks.together, steps, chunk=3)
    singles = [evaluation.episode_scores(learner, meta, task, steps) for task in tasks.alone]
    assert score == pytest.approx([single[0][0] for single in singles], abs=TOLERANCE)
    assert loss == pytest.approx([single[1][0] for single in singles], abs=TOLERANCE)
    assert loss.std() > 1e-3, "the tasks differ"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name in NAMES
        if build(name).test_variant.algorithm.masks_padding
        for field in ("support_size", "query_size", "task_ways")
        # Matching networks give a probability of 0 to classes without examples.
        if not (name.startswith("matching_net") and field == "task_ways")
    ],
)
def test_every_size_matters(name, field):
    """Shows that the tests above can fail: results change if a size is omitted."""
    learner = build(name)
    tasks = draw_tasks(VARIED_WAYS)
    meta = initialize(learner)
    steps = evaluation.count_inner_steps(learner, 3)
    right, wrong = (
        evaluation.episode_scores(learner, meta, episode, steps)[1]
        for episode in (tasks.together, tasks.together._replace(**{field: None}))
    )
    assert not np.allclose(right, wrong, rtol=0, atol=1000 * TOLERANCE)


@pytest.mark.parametrize("name", ["protonet", "matching_net", "meta_baseline", "feat"])
def test_metric_based_tasks_are_computed_together(name):
    learner, tasks = build(name), draw_tasks(VARIED_WAYS)
    assert not outer.choose_plan(tasks.together, 4, learner=learner).trim
    assert [chunk.tasks for chunk in evaluation.ExactChunks(learner, tasks.together, 4)] == [4]


@pytest.mark.parametrize("name", ["protonet", "metaoptnet", "reptile"])
def test_tasks_with_batch_norm_are_computed_alone(name):
    learner = build(name)
    outputs = learner.algorithm.count_model_outputs(3, 5)
    model = conv4.Conv4(4, 2).build((1, 8, 8), outputs)
    learner = replace(learner, model=model)
    tasks = draw_tasks(VARIED_WAYS if varies(learner.algorithm) else EQUAL_WAYS, (1, 8, 8))
    meta = initialize(learner)
    plan = outer.choose_plan(tasks.together, 4, learner=learner)
    assert plan.trim and plan.shard == plan.query_tasks == 1 and "batch norm" in plan.reason
    together = meta_gradient(learner, meta, tasks.together)
    singles = [meta_gradient(learner, meta, task) for task in tasks.alone]
    for key in meta:
        expected = torch.stack([single.gradient[key] for single in singles]).mean(0)
        torch.testing.assert_close(together.gradient[key], expected, rtol=0, atol=TOLERANCE)
    steps = evaluation.count_inner_steps(learner, 2)
    scores = evaluation.episode_scores(learner, meta, tasks.together, steps)
    expected = [evaluation.episode_scores(learner, meta, task, steps) for task in tasks.alone]
    for i in range(4):
        assert (scores[0][i], scores[1][i]) == pytest.approx(
            (expected[i][0][0], expected[i][1][0]), abs=TOLERANCE
        )
    with pytest.raises(ConfigError, match="without batch norm"):
        meta_gradient(learner, meta, tasks.together, PLANS["at once"])
    with pytest.raises(ConfigError, match=r"train.plan.shard is 2; it must be null or 1, because"):
        outer.choose_plan(tasks.together, 4, PlanConfig(shard=2), learner)


def test_algorithms_that_do_not_mask_padding_compute_tasks_alone():
    class Unmasked(ALGORITHMS["protonet"]):
        masks_padding = False

    tasks = draw_tasks(VARIED_WAYS)
    learner = replace(build("protonet"), algorithm=Unmasked())
    meta = initialize(learner)
    plan = outer.choose_plan(tasks.together, 4, learner=learner)
    assert plan.trim and "Unmasked does not mask padding" in plan.reason
    masked = meta_gradient(build("protonet"), meta, tasks.together)
    alone = meta_gradient(learner, meta, tasks.together)
    for key in meta:
        torch.testing.assert_close(alone.gradient[key], masked.gradient[key], rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match="algorithm is 'Unmasked'; it must be one that masks"):
        meta_gradient(learner, meta, tasks.together, PLANS["at once"])


def test_a_fixed_head_needs_equal_ways():
    learner = build("maml", outputs=4)
    with pytest.raises(ConfigError, match="must be a fixed number, because the head of MAML"):
        meta_gradient(learner, initialize(learner), draw_tasks(VARIED_WAYS).together)


def test_trimmed_tasks_are_those_drawn_alone():
    tasks = draw_tasks(VARIED_WAYS)
    for i, task in enumerate(tasks.alone):
        trimmed = tasks.together.slice_tasks(i, i + 1).trim()
        assert all(map(torch.equal, trimmed.tensors, task.tensors))
        assert trimmed.ways == task.ways and trimmed.support_size == task.support_size
        assert trimmed.query_size is trimmed.task_ways is None
        assert not trimmed.is_padded
    pair = tasks.together.slice_tasks(0, 2).trim()
    assert pair.support_x.shape[1] == 6 and pair.query_x.shape[1] == 6 and pair.ways == 3
    assert pair.is_padded
    plain = tasks.alone[1]
    assert plain.trim() is plain and not plain.is_padded


def test_mini_batches_alternate_between_classes():
    tasks = draw_tasks(VARIED_WAYS)
    for step in range(4):
        x, y, size = tasks.together.support_batch(step, 3)
        assert size.tolist() == [2, 3, 3, 3]
        for i, task in enumerate(tasks.alone):
            alone = task.support_batch(step, 3)
            n = min(3, task.support_x.shape[1])
            assert sorted(y[i, :n].tolist()) == sorted(alone[1][0, :n].tolist())
            if n == 3:
                assert torch.equal(x[i, :n], alone[0][0])
    # The shots are (1, 3, 2, 1): the examples of class 1 at 1/6, 1/2 and 5/6 of the order, etc.
    labels = [tasks.alone[2].support_batch(step, 3)[1][0].tolist() for step in range(3)]
    assert labels == [[1, 2, 0], [1, 3, 2], [1, 1, 2]]


def test_mini_batches_of_an_unbalanced_support_set_contain_all_classes():
    """As from `adapt`, whose examples are sorted by class, and whose number of ways is unknown."""
    y = torch.tensor([0] * 30 + [1] * 15 + [2] * 5)[None]
    x = torch.arange(50.0)[None, :, None]
    episode = Episode(x, y, x[:, :0], y[:, :0])
    seen = []
    for step in range(5):
        batch, labels, size = episode.support_batch(step, 10)
        assert size is None and labels[0].bincount().tolist() == [6, 3, 1]
        assert torch.equal(y[0, batch[0, :, 0].long()], labels[0])
        seen += batch.flatten().tolist()
    assert sorted(seen) == list(range(50))


def test_fewer_shots_are_the_first_of_each_class():
    tasks = draw_tasks(VARIED_WAYS)
    fewer = tasks.together.with_shots(2)
    assert fewer.support_size.tolist() == [2, 6, 6, 5]
    labels = [[0, 1], [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3], [0, 0, 1, 2, 2]]
    kept = [(0, 1), (0, 1, 2, 3, 4, 5), (0, 1, 2, 4, 5, 6), (0, 1, 3, 4, 5)]
    for i, n in enumerate(fewer.support_size.tolist()):
        assert fewer.support_y[i, :n].tolist() == labels[i]
        assert torch.equal(fewer.support_x[i, :n], tasks.alone[i].support_x[0, list(kept[i])])
