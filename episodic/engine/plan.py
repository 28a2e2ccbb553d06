"""Plans: how the engine computes a batch of tasks.

A plan depends on the workload and on params.yaml, never on measured times. Plans sum float32
numbers in different orders, so timing noise would otherwise change the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from episodic.core.config import Section, require

__all__ = ["Mode", "Plan", "PlanConfig", "TaskCount", "choose_chunk_size", "plan_for_sizes"]

Mode = Literal["auto", "batched", "per_task", "compiled"]
TaskCount = Annotated[int, Ge(1), Le(1_000_000)]

CPU_SUPPORT_NUMBERS, CPU_QUERY_NUMBERS = 1 << 16, 1 << 19
"""Numbers in support sets, and in query sets, that a CPU core processes at once. With more, the
activations (about ten times as many numbers) exceed the cache; with fewer, the overhead of calls
dominates. See benchmarks/NOTES.md."""

GPU_NUMBERS = 1 << 25
"""Numbers in support and query sets of the test episodes that a GPU processes at once so that the
activations fit into its memory."""

MAX_TASKS, MIN_SHARDS = 8, 2
"""Maximum number of tasks that a CPU core processes at once, and minimum number of shards so that
a meta-batch can be distributed over processes."""


@dataclass(frozen=True)
class PlanConfig(Section):
    """The section `train.plan` of params.yaml: how the meta-gradient is computed.

    Args:
        mode: `batched`, `per_task` (a sequential loop over tasks), `compiled` (batched, by compiled
            kernels), or `auto` (batched).
        shard: Tasks computed at once; None to choose by the size of the tasks.
        query_tasks: Tasks whose query sets are differentiated at once; None likewise.
        tf32: Whether matrix products on a GPU round their inputs to a mantissa of 10 bits.
    """

    mode: Mode = "auto"
    shard: TaskCount | None = None
    query_tasks: TaskCount | None = None
    tf32: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        single = self.mode != "per_task" or (self.shard or 1) == (self.query_tasks or 1) == 1
        require(single, "mode", self.mode, "requires shard: 1 and query_tasks: 1 (or null)")


@dataclass(frozen=True)
class Plan:
    """How a batch of tasks is computed.

    Args:
        mode: `batched`, `per_task` or `compiled`. The last is batched with compiled kernels:
            convolution and batch norm by native.cpp on a CPU, batch norm by torch's compiler on
            other devices.
        shard: Tasks computed at once. Shards are distributed over processes and summed in order.
        query_tasks: Tasks of a shard whose query sets are differentiated at once.
        reason: Why this plan was chosen, for the log.
        trim: Whether the padding of a task is removed, which requires shards of one task. Shapes
            then differ between tasks.
    """

    mode: str
    shard: int
    query_tasks: int
    reason: str
    trim: bool = False

    @property
    def compiled(self) -> bool:
        """Whether compiled kernels are used."""
        return self.mode == "compiled"

    def shard_bounds(self, tasks: int) -> list[tuple[int, int]]:
        """Return the first task of each shard and the end (exclusive). The last may be smaller."""
        return [(start, min(start + self.shard, tasks)) for start in range(0, tasks, self.shard)]


def plan_for_sizes(config: PlanConfig, tasks: int, support: int, query: int, device: str) -> Plan:
    """Choose the plan for a batch of tasks from their sizes.

    Args:
        config: Settings that override the choice.
        tasks: Tasks per batch.
        support: Numbers in the support examples of a task.
        query: Numbers in the query examples of a task.
        device: Type of the device, such as `cpu`.
    """
    if config.mode == "per_task":
        return Plan("per_task", 1, 1, "set in train.plan")
    mode = "compiled" if config.mode == "compiled" else "batched"
    if device == "cpu":
        shard, reason = _cpu_shard(tasks, support, query)
        query_tasks = max(1, CPU_QUERY_NUMBERS // query)
        if query_tasks < min(shard, tasks):
            reason += f"; {query:,} query numbers per task, {CPU_QUERY_NUMBERS:,} at once"
    else:
        shard = query_tasks = tasks
        reason = f"one batch on a {device} device"
    if config.shard or config.query_tasks:
        reason = "set in train.plan"
        if (config.shard or 0) > tasks:
            reason += f", but there are only {tasks} tasks"
    elif config.mode != "auto":
        reason = f"mode set in train.plan; {reason}"
    shard = min(config.shard or shard, tasks)
    return Plan(mode, shard, min(config.query_tasks or query_tasks, shard), reason)


def _cpu_shard(tasks: int, support: int, query: int) -> tuple[int, str]:
    """Choose how many tasks a CPU core computes at once, with the reason."""
    fits = max(1, CPU_SUPPORT_NUMBERS // support)
    if tasks * (support + query) <= CPU_SUPPORT_NUMBERS:
        return tasks, f"all {tasks} tasks together are small for a CPU core"
    if (half := -(-tasks // MIN_SHARDS)) < min(fits, MAX_TASKS):
        return half, f"at least {MIN_SHARDS} shards so that processes can share them"
    if fits < MAX_TASKS:
        return fits, (
            f"{support:,} support numbers per task; a CPU core computes {CPU_SUPPORT_NUMBERS:,} "
            "well at once"
        )
    return MAX_TASKS, f"at most {MAX_TASKS} tasks at once so that processes can share them"


def choose_chunk_size(support: int, query: int, device: str) -> int:
    """Choose how many test episodes are computed at once.

    Args:
        support: Numbers in the support examples of an episode.
        query: Numbers in the query examples of an episode.
        device: Type of the device, such as `cpu`.
    """
    if device == "cpu":
        return max(1, min(MAX_TASKS, CPU_SUPPORT_NUMBERS // support, CPU_QUERY_NUMBERS // query))
    return max(1, GPU_NUMBERS // (support + query))
