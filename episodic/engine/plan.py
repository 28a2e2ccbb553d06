"""How the engine computes a batch of tasks.

A plan is a function of the workload and of params.yaml, never of a measured time. Plans add float32
numbers in different orders, so that a plan chosen by time would let noise change the results.
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
"""Numbers in support sets, and in query sets, that a CPU core computes at once. With more, what the
layers make of them (some ten times as much) leaves the cache; with fewer, calls are too small. See
benchmarks/NOTES.md."""

GPU_NUMBERS = 1 << 25
"""Numbers in support and query sets of the test episodes that a GPU computes at once, so that what
the layers make of them fits into its memory."""

MAX_TASKS, MIN_SHARDS = 8, 2
"""Most tasks that a CPU core computes at once, and fewest shards, so that processes can share a
meta-batch."""


@dataclass(frozen=True)
class PlanConfig(Section):
    """The section `train.plan` of params.yaml: how the meta-gradient is computed.

    Args:
        mode: `batched`, `per_task` (a sequential loop over tasks), `compiled` (batched, by compiled
            kernels), or `auto`, which is batched.
        shard: Tasks computed at once; None to choose by the size of the tasks.
        query_tasks: Tasks whose query sets are differentiated at once; None to choose likewise.
        tf32: On a GPU, whether matrix products round to a mantissa of 10 bits.
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
        mode: `batched`, `per_task` or `compiled`. The last is batched with compiled kernels: on a
            CPU convolution and batch norm by native.cpp, elsewhere batch norm by torch's compiler.
        shard: Tasks computed at once, the unit in which processes share a batch and sums are taken.
        query_tasks: Tasks of a shard whose query sets are differentiated at once.
        reason: Why this plan was chosen, for the log.
    """

    mode: str
    shard: int
    query_tasks: int
    reason: str

    @property
    def compiled(self) -> bool:
        """Whether compiled kernels are used."""
        return self.mode == "compiled"

    def shard_bounds(self, tasks: int) -> list[tuple[int, int]]:
        """First task of each shard, and one past its last. The last shard may be smaller."""
        return [(start, min(start + self.shard, tasks)) for start in range(0, tasks, self.shard)]


def plan_for_sizes(config: PlanConfig, tasks: int, support: int, query: int, device: str) -> Plan:
    """Choose the plan for a batch of tasks from their sizes.

    Args:
        config: What is not chosen but given.
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
    """Tasks that a CPU core computes at once, and why."""
    fits = max(1, CPU_SUPPORT_NUMBERS // support)
    if tasks * (support + query) <= CPU_SUPPORT_NUMBERS:
        return tasks, f"all {tasks} tasks together are small for a CPU core"
    if (half := -(-tasks // MIN_SHARDS)) < min(fits, MAX_TASKS):
        return half, f"at least {MIN_SHARDS} shards, so that processes can share them"
    if fits < MAX_TASKS:
        return fits, (
            f"{support:,} support numbers per task; a CPU core computes {CPU_SUPPORT_NUMBERS:,} "
            "well at once"
        )
    return MAX_TASKS, f"at most {MAX_TASKS} tasks at once, so that processes can share them"


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
