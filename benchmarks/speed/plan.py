"""Measure plans for the run that params.yaml describes, and print the fastest as YAML.

    python -m benchmarks.speed.plan [--params FILE] [--data FOLDER] [--rounds N] [--compiled]

Requires the prepared data (`dvc repro episodes`). Plans are measured alternately. The shard sizes
are divisors of the meta-batch. The pipeline never measures plans, because timing noise would then
affect its results.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.speed.table import parse_positive
from episodic.engine import allocator, outer
from episodic.engine.plan import Plan
from episodic.ops import backend
from episodic.training import loop
from episodic.training.model_folder import build_learner
from tasks import params, prepared
from tasks.runtime import distributed, stage
from tasks.train import describe_learner


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/prepared"),
        metavar="FOLDER",
        help="written by the stage episodes",
    )
    parser.add_argument("--rounds", type=parse_positive, default=5)
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="also try mode: compiled (needs a C++ compiler; on a GPU it takes minutes)",
    )
    args = parser.parse_args()
    stage.run(lambda: measure(args))


def measure(args: argparse.Namespace) -> None:
    allocator.keep_freed_memory()
    settings = params.load(args.params, "episodes", "model", "algorithm", "train")
    device = distributed.prepare_device(settings.device)
    source = prepared.open_folder(args.data, device)
    meta_learner = build_learner(describe_learner(settings, source.meta))
    sampler, tasks = (
        source.training_sampler(settings, meta_learner.algorithm.labels),
        settings.train.meta_batch,
    )
    automatic = loop.choose_training_plan(sampler, settings.train, device)
    index = torch.arange(tasks, device=device)
    theta = {name: p.to(device) for name, p in meta_learner.init(settings.train.seed).items()}
    if args.compiled or automatic.compiled:
        backend.prepare_compiled_kernels(device)
    # One count for all candidates: a plan with fewer shards leaves processes idle here.
    count = distributed.count_processes(
        settings.processes, tasks, is_large=len(automatic.shard_bounds(tasks)) > 1, device=device
    )
    with distributed.start_processes(count, device) as group:

        def gradient(candidate: Plan) -> object:
            return outer.sharded_meta_gradient(
                meta_learner, theta, lambda a, b: sampler(index[a:b]), tasks, candidate, group
            )

        works: dict[Plan, Callable[[], object]] = {}
        for candidate in candidates(tasks, automatic, args.compiled):
            works[candidate] = partial(gradient, candidate)
        seconds: dict[Plan, list[float]] = {candidate: [] for candidate in works}
        for i in range(args.rounds + 1):
            for candidate, work in works.items():
                begin = time.perf_counter()
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if i:  # the first round warms up
                    seconds[candidate].append(time.perf_counter() - begin)
        if group.rank:
            return
    print(
        f"{tasks} tasks per iteration, {count} {'process' if count == 1 else 'processes'}, "
        f"{device.type}; * marks the current plan"
    )
    print(f"  {'mode':10} {'shard':>6} {'query_tasks':>12} {'it/s':>8} {'min..max':>16}")
    order = sorted(works, key=lambda candidate: statistics.median(seconds[candidate]))
    for candidate in order:
        rates = sorted(1 / s for s in seconds[candidate])
        mark = "*" if _key(candidate) == _key(automatic) else " "
        spread = f"{rates[0]:.2f}..{rates[-1]:.2f}"
        print(
            f"{mark} {candidate.mode:10} {candidate.shard:6} {candidate.query_tasks:12} "
            f"{statistics.median(rates):8.2f} {spread:>16}"
        )
    best = order[0]
    print(
        "\nthe fastest plan here, as lines of the section train in params.yaml "
        "(another plan rounds differently):"
    )
    print(
        f"  plan:\n    mode: {best.mode}\n    shard: {best.shard}\n"
        f"    query_tasks: {best.query_tasks}"
    )
    print(f"    tf32: {str(settings.train.plan.tf32).lower()}")


def candidates(tasks: int, automatic: Plan, compiled: bool) -> list[Plan]:
    """List the plans to measure.

    These are the automatic plan, the plan per_task, and shards of all divisors whose query sets are
    differentiated one by one, in fours and all at once.
    """
    shards = [size for size in range(1, tasks + 1) if tasks % size == 0 and size <= 32]
    modes = ["batched", "compiled"] if compiled else ["batched"]
    batched = [
        Plan(mode, shard, query, "")
        for mode in modes
        for shard in shards
        for query in sorted({1, min(4, shard), shard})
    ]
    plans = [Plan("per_task", 1, 1, ""), *batched, automatic]
    return list({_key(candidate): candidate for candidate in plans}.values())


def _key(candidate: Plan) -> tuple[str, int, int]:
    return candidate.mode, candidate.shard, candidate.query_tasks


if __name__ == "__main__":
    main()
