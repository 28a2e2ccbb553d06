"""How the engine computes a batch of tasks: a function of the workload and of params, never of a timing.

Plans add float32 numbers in different orders, so that a plan picked by a stopwatch would let noise decide the bytes of a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from episodic.core.config import require

Mode = Literal["auto", "batched", "per_task", "compiled"]

SUPPORT, QUERY = 1 << 16, 1 << 19
"""Numbers in the support sets, and in the query sets, that a CPU core computes at once: with more, what the layers make of them (some
ten times as much) is moved to memory and back; with fewer, the calls are too small. See benchmarks/NOTES.md."""

DEVICE = 1 << 25
"""Numbers in support and query sets of the test episodes that a GPU computes at once, so that what the layers make of them fits."""

MOST, SHARDS = 8, 2
"""Tasks at most that a CPU core computes at once, and shards at least, so that processes can share a meta-batch."""


@dataclass(frozen=True)
class PlanConfig:
    """The section `train.plan` of params.yaml; null: chosen from the workload. tf32: on a GPU, 10 bits of mantissa in products."""

    mode: Mode = "auto"
    shard: int | None = None
    query_tasks: int | None = None
    tf32: bool = False

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        for key in ("shard", "query_tasks"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be null or at least 1")
        single = self.mode != "per_task" or (self.shard or 1) == (self.query_tasks or 1) == 1
        require(single, "mode", self.mode, "requires shard: 1 and query_tasks: 1 (or null)")


@dataclass(frozen=True)
class Plan:
    """mode: batched, per_task or compiled (batched; on a CPU convolution and norm_relu by native.cpp, elsewhere norms by torch's compiler)
    shard: tasks computed at once, and the unit in which processes share a batch and sums are taken
    query_tasks: of these, tasks whose query sets are computed at once
    reason: for the log
    """

    mode: str
    shard: int
    query_tasks: int
    reason: str

    @property
    def compiled(self) -> bool:
        return self.mode == "compiled"

    def shard_bounds(self, tasks: int) -> list[tuple[int, int]]:
        """First and past-the-last task of each shard; the last one may be smaller."""
        return [(start, min(start + self.shard, tasks)) for start in range(0, tasks, self.shard)]


def plan_for_sizes(config: PlanConfig, tasks: int, support: int, query: int, device: str) -> Plan:
    """The plan for `tasks` tasks with `support` and `query` numbers in the inputs of each, on a device type."""
    if config.mode == "per_task":
        return Plan("per_task", 1, 1, "asked for")
    mode = "compiled" if config.mode == "compiled" else "batched"
    if device == "cpu":
        fits = max(1, SUPPORT // support)
        if tasks * (support + query) <= SUPPORT:
            shard, reason = tasks, f"all {tasks} tasks are small for a CPU core"
        elif (half := -(-tasks // SHARDS)) < min(fits, MOST):
            shard, reason = half, f"{SHARDS} shards at least, so that processes can share them"
        elif fits < MOST:
            shard, reason = (
                fits,
                f"{support:,} support numbers a task, of which a CPU core computes {SUPPORT:,} well at once",
            )
        else:
            shard, reason = MOST, f"at most {MOST} tasks at once, so that processes can share them"
        at_once = max(1, QUERY // query)
        if at_once < min(shard, tasks):
            reason += f"; {query:,} query numbers a task, {QUERY:,} at once"
    else:
        shard = at_once = tasks
        reason = f"one batch for a {device} device"
    if config.shard or config.query_tasks:
        reason = "as train.plan says" + (
            f", but there are only {tasks} tasks" if (config.shard or 0) > tasks else ""
        )
    elif config.mode != "auto":
        reason = f"mode as train.plan says; {reason}"
    shard = min(config.shard or shard, tasks)
    return Plan(mode, shard, min(config.query_tasks or at_once, shard), reason)


def choose_chunk_size(support: int, query: int, device: str) -> int:
    """How many test episodes with `support` and `query` numbers each are computed at once."""
    if device == "cpu":
        return max(1, min(MOST, SUPPORT // support, QUERY // query))
    return max(1, DEVICE // (support + query))
