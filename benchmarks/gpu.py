"""The engine on one GPU: exactness in float64, speed, and duration of the papers' training runs.

    python benchmarks/gpu.py [--out FOLDER]

Requires torch >= 2.11, numpy, annotated-types and this checkout, and takes less than eight minutes.
Speed is compared with a sequential loop over tasks. Prints one table; --out also writes gpu.csv.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402

from benchmarks.speed import peers  # noqa: E402
from benchmarks.speed.table import parse_folder, write  # noqa: E402
from benchmarks.speed.workloads import WORKLOADS, Workload  # noqa: E402
from episodic.data.sampling import ClassSampler  # noqa: E402
from episodic.engine import outer, plan  # noqa: E402
from episodic.engine.processes import ProcessGroup  # noqa: E402
from episodic.training import evaluation, loop  # noqa: E402
from episodic.training.config import TrainingConfig  # noqa: E402
from episodic.training.state import TrainingState  # noqa: E402

TOLERANCE = 1e-10
"""Maximum relative difference from the sequential loop in float64."""

PAPER_ITERATIONS = 60_000
"""Iterations of training in the MAML paper, on both datasets."""

TARGET_SECONDS = {"W1q1": 60.0, "W2": 900.0}
"""Target durations of these training runs."""

CLASSES, IMAGES = 1000, 20
"""Number of classes and of images per class."""


@dataclass(frozen=True)
class Variant:
    """A configuration of the engine."""

    what: str
    mode: plan.Mode = "auto"
    graph: bool = True
    tf32: bool = False


VARIANTS = (
    Variant("engine, launched from Python", graph=False),
    Variant("engine, one CUDA graph"),
    Variant("engine, one CUDA graph, compiled", "compiled"),
    Variant("engine, one CUDA graph, TF32", tf32=True),
    Variant("engine, one CUDA graph, compiled, TF32", "compiled", tf32=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=parse_folder, help="folder to write gpu.csv to")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="W",
        help="W1q1, W1q15, W2",
    )
    parser.add_argument(
        "--device",
        default="cuda",
        choices=("cuda", "cpu"),
        help="cpu tests the program without CUDA graphs",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds per row (default: 4)")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no usable CUDA device")
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    facts = {
        "machine": machine,
        "date": f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        "torch": torch.__version__,
    }
    print(", ".join(facts.values()))
    begin, table = time.perf_counter(), []
    print(f"  {'':44} {'it/s':>9} {'ratio':>7} {'60,000 it.':>11}")
    for name in args.workloads:
        workload = WORKLOADS[name]
        print(
            f"{name}: {workload.what}; float64 {verify_gradient(workload, device)}; "
            f"sampling as on the CPU: {compare_sampling(workload, device)}"
        )
        if device.type == "cuda":
            print(f"  20 iterations as a CUDA graph and without: {compare_graph(workload, device)}")
        baseline = 0.0
        for label, run in timed_functions(workload, device):
            try:
                rate = measure_rate(run(), device, args.seconds)
            except Exception as error:  # the other rows still run
                print(f"  {label:44} failed: {' '.join(str(error).split())[:160]}", flush=True)
                continue
            baseline = baseline or rate
            target = (
                f"(target {TARGET_SECONDS[name]:.0f} s)"
                if name in TARGET_SECONDS and label.startswith("engine")
                else ""
            )
            print(
                f"  {label:44} {rate:9.2f} {rate / baseline:7.1f} "
                f"{PAPER_ITERATIONS / rate:9.0f} s {target}",
                flush=True,
            )
            table.append(
                facts
                | {
                    "workload": name,
                    "what": label,
                    "iterations_per_second": round(rate, 3),
                    "seconds": "",
                }
            )
    episodes = 100 if device.type == "cuda" else 20
    for label, seconds in time_evaluation(WORKLOADS["W1q1"], device, episodes).items():
        print(
            f"  evaluation, {episodes} episodes, 10 inner steps, {label}: {seconds:.2f} s",
            flush=True,
        )
        table.append(
            facts
            | {
                "workload": "evaluation",
                "what": label,
                "iterations_per_second": "",
                "seconds": round(seconds, 3),
            }
        )
    print(f"{time.perf_counter() - begin:.0f} s in total")
    if args.out:
        write(args.out / "gpu.csv", table)


def timed_functions(
    workload: Workload, device: torch.device
) -> list[tuple[str, Callable[[], Callable[[], Any]]]]:
    """List names, and functions that prepare and return the iteration to time."""

    def eager() -> Callable[[], Any]:
        set_precision(False)
        theta = {name: p.to(device) for name, p in workload.theta().items()}
        return peers.eager(workload, theta, workload.episode().to(device))

    result: list[tuple[str, Callable[[], Callable[[], Any]]]] = [
        ("sequential loop over tasks", eager)
    ]
    for variant in VARIANTS:
        if device.type == "cuda" or not variant.graph:

            def engine(variant: Variant = variant) -> Callable[[], Any]:
                return build_training(workload, variant, device)[1]

            result.append((variant.what, engine))
    return result


def build_training(
    workload: Workload, variant: Variant, device: torch.device
) -> tuple[TrainingState, Callable[[], Any]]:
    """Build a training iteration: sampling on the device, meta-gradient, Adam."""
    set_precision(variant.tf32)
    config = TrainingConfig(
        iterations=PAPER_ITERATIONS,
        meta_batch=workload.tasks,
        queries=workload.queries,
        plan=plan.PlanConfig(variant.mode, tf32=variant.tf32),
    )
    sampler = build_sampler(workload, device)
    state = TrainingState.initial(workload.learner, config, device)
    chosen = loop.choose_training_plan(sampler, config, device)
    step = loop.build_iteration(
        workload.learner,
        sampler,
        state,
        config,
        device,
        chosen,
        ProcessGroup(),
        capture=variant.graph,
    )

    def iterate() -> Any:
        result = step()
        state.iteration += 1
        return result

    return state, iterate


def build_sampler(workload: Workload, device: torch.device) -> ClassSampler:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (CLASSES * IMAGES, *workload.input), generator=generator, dtype=torch.uint8
    ).to(device)
    offsets = torch.arange(CLASSES, device=device) * IMAGES
    counts = torch.full((CLASSES,), IMAGES, device=device)
    shots = workload.shots
    queries = min(workload.queries, IMAGES - shots)
    return ClassSampler(pixels, offsets, counts, 0, "train", workload.ways, shots, queries)


def set_precision(tf32: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def measure_rate(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Measure iterations per second, as the median over fifths of `seconds` after a warm-up."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    begin = time.perf_counter()
    run()
    run()
    wait()
    run()
    wait()
    once = (time.perf_counter() - begin) / 3
    rates = []
    for _ in range(5):
        begin, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - begin < seconds / 5:
            # Limits how far Python runs ahead of the GPU.
            for _ in range(max(1, min(100, int(0.02 / once)))):
                run()
                done += 1
            wait()
        rates.append(done / (time.perf_counter() - begin))
    return statistics.median(rates)


def verify_gradient(workload: Workload, device: torch.device) -> str:
    """Compare the engine with the sequential loop on the same device, in float64, on two tasks."""
    theta = {name: p.to(device) for name, p in workload.theta(torch.float64).items()}
    episode = workload.episode(torch.float64, 2).to(device)
    ours, other = (
        outer.meta_gradient(workload.learner, theta, episode).gradient,
        peers.eager(workload, theta, episode)(),
    )
    worst = max(((ours[name] - g).norm() / g.norm()).item() for name, g in other.items())
    if worst > TOLERANCE:
        sys.exit(
            f"error: the engine's gradient differs from that of the sequential loop by {worst:.1e} "
            "in float64"
        )
    return f"difference {worst:.0e}"


def compare_graph(workload: Workload, device: torch.device) -> str:
    """Compare training by replays of a CUDA graph with training launched from Python.

    They differ if a graph reads stale or freed memory.
    """
    ends = []
    for graph in (True, False):
        state, run = build_training(workload, Variant("", graph=graph), device)
        for _ in range(20):
            run()
        ends.append(torch.cat([p.flatten() for p in state.theta.values()]))
    worst = ((ends[0] - ends[1]).norm() / ends[1].norm()).item()
    if worst > 1e-3:
        sys.exit(f"error: 20 iterations with and without a CUDA graph differ by {worst:.1e}")
    return f"difference {worst:.0e}"


def compare_sampling(workload: Workload, device: torch.device) -> bool:
    index = torch.arange(100)
    on_cpu, on_device = (
        build_sampler(workload, torch.device("cpu")),
        build_sampler(workload, device),
    )
    return all(
        torch.equal(a, b.cpu())
        for a, b in zip(on_cpu.draw_rows(index), on_device.draw_rows(index.to(device)), strict=True)
    )


def time_evaluation(workload: Workload, device: torch.device, episodes: int) -> dict[str, float]:
    """Measure the seconds for test episodes with 10 inner steps, one by one and in batches."""
    set_precision(False)
    theta = {name: p.to(device) for name, p in workload.theta().items()}
    episode = workload.episode(tasks=episodes).to(device)
    result = {}
    for chunk in sorted({1, 20, episodes}):
        label = "one by one" if chunk == 1 else f"{chunk} at once"
        evaluation.episode_scores(workload.learner, theta, episode.slice_tasks(0, chunk), 10, chunk)
        begin = time.perf_counter()
        evaluation.episode_scores(workload.learner, theta, episode, 10, chunk)
        result[label] = time.perf_counter() - begin
    return result


if __name__ == "__main__":
    main()
