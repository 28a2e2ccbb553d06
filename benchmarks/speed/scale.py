"""Scaling of memory with the data, and of time with meta-batch, ways, shots and inner steps.

    python -m benchmarks.speed.scale [--out benchmarks/results]

Prints three tables, the third for evaluation with different chunk sizes. --out also writes cost.csv
and cost.png.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.table import parse_folder, write
from benchmarks.speed.workloads import WORKLOADS, Workload
from episodic.core.files import atomic_path
from episodic.data.sampling import ClassSampler
from episodic.data.storage import StoredImages
from episodic.engine import allocator, outer
from episodic.engine.processes import ProcessGroup
from episodic.training import evaluation

BASE = replace(WORKLOADS["W1q1"], tasks=8)
GROWTH: dict[str, list[Workload]] = {
    "meta-batch": [replace(BASE, tasks=n) for n in (4, 8, 16, 32, 64)],
    "ways": [replace(BASE, ways=n) for n in (2, 5, 10, 20)],
    "shots": [replace(BASE, shots=n) for n in (1, 2, 5, 10)],
    "inner steps": [replace(BASE, steps=n) for n in (1, 2, 5, 10)],
}
VALUE = {"meta-batch": "tasks", "ways": "ways", "shots": "shots", "inner steps": "steps"}
MEGABYTES = (200, 2000)
"""Sizes of the data in the memory test."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=parse_folder, help="folder to write cost.csv and cost.png to")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    allocator.keep_freed_memory()
    torch.set_num_threads(1)
    if args.memory:
        print(json.dumps({"rss": measure_resident_memory(args.memory)}))
        return
    print("memory: peak resident memory over 100 batches of episodes, sampled from a file")
    sizes = []
    with tempfile.TemporaryDirectory(prefix="episodic-", dir=Path.cwd()) as folder:
        for megabytes in MEGABYTES:
            path = Path(folder, "images.npy")
            write_images(path, megabytes)
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
            process = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed.scale", "--memory", path],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            sizes.append(json.loads(process.stdout)["rss"])
            print(f"  {megabytes:6} MB of images: {sizes[-1] / 1e6:6.0f} MB resident")
    print(
        f"  {MEGABYTES[1] / MEGABYTES[0]:.0f} times the data, "
        f"{sizes[1] / sizes[0]:.2f} times the memory"
    )
    table = measure_cost()
    time_evaluation()
    if args.out:
        write(args.out / "cost.csv", table)
        plot(table, args.out / "cost.png")


def write_images(path: Path, megabytes: int) -> None:
    """Write RGB images of 84 x 84 pixels in chunks, to limit memory."""
    images = megabytes * 10**6 // (3 * 84 * 84) // 20 * 20
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(images, 3, 84, 84))
    generator = np.random.default_rng(0)
    for start in range(0, images, 1000):
        chunk = array[start : start + 1000]
        chunk[:] = generator.integers(0, 256, chunk.shape, dtype=np.uint8)
    array.flush()


def measure_resident_memory(path: Path) -> int:
    """Measure the peak resident memory in bytes while episodes are drawn from the whole file."""
    images = StoredImages(path)
    classes = len(images) // 20
    sampler = ClassSampler(
        images, torch.arange(classes) * 20, torch.full((classes,), 20), 0, "train", 5, 1, 5
    )
    for i in range(100):
        sampler(torch.arange(i * 8, i * 8 + 8))
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, which counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def measure_cost() -> list[dict[str, Any]]:
    print(
        f"\ncost of an iteration, one process: {BASE.what.split(',')[0]}, 8 tasks, 5 ways, 1 shot, "
        "1 inner step, except for the varied quantity"
    )
    print(f"  {'':12} {'':>5} {'ms':>8} {'GFLOP':>7} {'GFLOP/s':>8}")
    table = []
    for name, workloads in GROWTH.items():
        for workload in workloads:
            theta, episode = workload.theta(), workload.episode()
            chosen = outer.choose_plan(episode, workload.tasks)
            seconds = []
            for _ in range(7):
                begin = time.perf_counter()
                outer.sharded_meta_gradient(
                    workload.learner,
                    theta,
                    episode.slice_tasks,
                    workload.tasks,
                    chosen,
                    ProcessGroup(),
                )
                seconds.append(time.perf_counter() - begin)
            value, median, work = (
                getattr(workload, VALUE[name]),
                statistics.median(seconds[1:]),
                workload.floating_point_operations(),
            )
            print(
                f"  {name:12} {value:5} {median * 1e3:8.1f} {work / 1e9:7.2f} "
                f"{work / median / 1e9:8.1f}",
                flush=True,
            )
            table.append(
                {
                    "what": name,
                    "value": value,
                    "milliseconds": round(median * 1e3, 2),
                    "gflop": round(work / 1e9, 3),
                }
            )
    return table


def time_evaluation() -> None:
    """Time 100 test episodes, alternating between chunk sizes."""
    workload = WORKLOADS["W1q1"]
    theta, episode = workload.theta(), workload.episode(tasks=100)
    seconds: dict[int, list[float]] = {1: [], 5: [], 20: []}
    for i in range(6):
        for chunk, times in seconds.items():
            begin = time.perf_counter()
            evaluation.episode_scores(workload.learner, theta, episode, 10, chunk)
            if i:
                times.append(time.perf_counter() - begin)
    print(
        "\nevaluation of 1,000 episodes of W1q1 with 10 inner steps, one process "
        "(10 times that of 100 episodes)"
    )
    for chunk, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[1], times, strict=True))
        print(
            f"  {chunk:3} at once: {statistics.median(times) * 10:6.1f} s, "
            f"{ratio:.2f} times as fast as one by one"
        )


def plot(table: list[dict[str, Any]], path: Path) -> None:
    import altair as alt
    import pandas as pd

    base = alt.Chart(pd.DataFrame(table)).mark_line(point=True)
    base = base.encode(
        x=alt.X("value:Q", scale=alt.Scale(type="log"), title=None),
        y=alt.Y("milliseconds:Q", scale=alt.Scale(type="log")),
    )
    with atomic_path(path) as draft:
        base.properties(width=180, height=180).facet(
            column=alt.Column("what:N", title=None)
        ).resolve_scale(x="independent").save(draft, format="png", scale_factor=1.5)


if __name__ == "__main__":
    main()
