"""Plans depend only on the workload and the configuration."""

from __future__ import annotations

import pytest

from benchmarks.speed.workloads import WORKLOADS
from episodic.core.config import ConfigError
from episodic.engine import outer, plan


def chosen(name: str, config: plan.PlanConfig | None = None, device: str = "cpu") -> plan.Plan:
    workload = WORKLOADS[name]
    support, query = (
        workload.ways * n * workload.input[0] * workload.input[1] ** 2
        for n in (workload.shots, workload.queries)
    )
    return plan.plan_for_sizes(config or plan.PlanConfig(), workload.tasks, support, query, device)


@pytest.mark.parametrize(
    ("name", "shard", "query"), [("W1q1", 8, 8), ("W1q15", 8, 8), ("W2", 1, 1)]
)
def test_work_that_fits_the_cache_is_batched(name, shard, query):
    result = chosen(name)
    assert (result.mode, result.shard, result.query_tasks) == ("batched", shard, query)
    assert result == outer.choose_plan(WORKLOADS[name].episode(), WORKLOADS[name].tasks)


def test_small_work_and_a_gpu_take_one_batch():
    assert plan.plan_for_sizes(plan.PlanConfig(), 25, 10, 10, "cpu").shard == 25
    result = chosen("W2", device="cuda")
    assert (result.shard, result.query_tasks) == (4, 4)


def test_params_decide():
    assert chosen("W1q1", plan.PlanConfig("per_task")).shard == 1
    result = chosen("W1q1", plan.PlanConfig("compiled", shard=16, query_tasks=2))
    assert (result.compiled, result.shard, result.query_tasks) == (
        True,
        16,
        2,
    ) and "set in train.plan" in result.reason
    assert chosen("W1q1", plan.PlanConfig(shard=100)).shard == 32, "no more than there are"


def test_shards_cover_the_batch():
    assert plan.Plan("batched", 3, 3, "").shard_bounds(7) == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"shard": 0}, "shard is 0"), ({"mode": "per_task", "shard": 4}, "requires shard: 1")],
)
def test_invalid_plan_is_rejected(values, message):
    with pytest.raises(ConfigError, match=message):
        plan.PlanConfig(**values)
