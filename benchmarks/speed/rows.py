"""One row of the speed table as a process.

`python -m benchmarks.speed.rows ROW WORKLOAD` computes a meta-gradient for every line that it
reads, and prints the elapsed seconds. Each row is a separate process, because the allocator and the
number of threads are settings of a process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.speed import peers
from benchmarks.speed.workloads import WORKLOADS, Workload
from episodic.core.errors import UserError
from episodic.engine import allocator, outer, plan
from episodic.engine.processes import ProcessGroup
from episodic.ops import backend

THREADS = 2
"""Threads of the baseline and processes of the engine."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a peer, or the engine with a plan.

    Args:
        what: Label in the table.
        peer: The peer; None for the engine.
        needs: Package that the peer requires.
        plan: Plan of the engine.
        processes: Processes of the engine.
    """

    what: str
    peer: Callable[..., peers.MetaGradient] | None = None
    needs: str | None = None
    plan: plan.PlanConfig = plan.PlanConfig()  # noqa: RUF009 - frozen
    processes: int = 1

    @property
    def missing(self) -> str | None:
        """Reason why the row cannot be measured; None if it can."""
        if self.plan.mode == "compiled":
            try:
                backend.prepare_compiled_kernels(torch.device("cpu"))
            except UserError as error:
                return str(error)
        return (
            None
            if self.needs is None or peers.is_installed(self.needs)
            else f"{self.needs} is not installed"
        )


BASELINE = "eager"
ROWS = {
    BASELINE: Row(f"sequential loop over tasks, {THREADS} threads", peers.eager),
    "vmap": Row("torch.func, grad of vmap", peers.vmapped),
    "higher": Row("higher", peers.higher_library, "higher"),
    "learn2learn": Row("learn2learn", peers.learn2learn_library, "learn2learn"),
    "jax": Row("JAX, jit of grad of vmap", peers.jax_library, "jax"),
    "engine_per_task": Row(
        "engine, plan per_task, 1 process", plan=plan.PlanConfig(mode="per_task")
    ),
    "engine_1": Row("engine, 1 process"),
    "engine_shard_16": Row(
        f"engine, plan.shard 16, {THREADS} processes",
        plan=plan.PlanConfig(shard=16),
        processes=THREADS,
    ),
    "engine": Row(f"engine, {THREADS} processes", processes=THREADS),
    "engine_compiled": Row(
        f"engine, compiled, {THREADS} processes",
        plan=plan.PlanConfig(mode="compiled"),
        processes=THREADS,
    ),
    "engine_compiled_16": Row(
        f"engine, compiled, plan.shard 16, {THREADS} processes",
        plan=plan.PlanConfig("compiled", 16),
        processes=THREADS,
    ),
}


@contextmanager
def prepare_row(
    row: Row, workload: Workload
) -> Iterator[tuple[ProcessGroup, Callable[[], object]]]:
    """Prepare the process group and the function that computes one meta-gradient."""
    theta, episode = workload.theta(), workload.episode()
    if row.peer is not None:
        torch.set_num_threads(THREADS)
        yield ProcessGroup(), row.peer(workload, theta, episode)
        return
    from tasks.runtime import distributed

    allocator.keep_freed_memory()
    chosen = outer.choose_plan(episode, workload.tasks, row.plan)
    with distributed.start_processes(row.processes, torch.device("cpu")) as group:
        yield (
            group,
            lambda: outer.sharded_meta_gradient(
                workload.learner, theta, episode.slice_tasks, workload.tasks, chosen, group
            ),
        )


def main() -> None:
    row, workload = ROWS[sys.argv[1]], WORKLOADS[sys.argv[2]]
    with prepare_row(row, workload) as (group, run):
        while True:
            request = group.broadcast_object(
                sys.stdin.readline().encode() if group.rank == 0 else b"", torch.device("cpu")
            )
            if not request:
                return
            start = time.perf_counter()
            run()
            if group.rank == 0:
                print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
