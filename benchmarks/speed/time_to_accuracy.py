"""Seconds of training until 95, 97 and 98.7 % on the 1,000 test episodes: real Omniglot, 5-way 1-shot, split `maml`, after 3 inner steps.

    python -m benchmarks.speed.time_to_accuracy [--preset omniglot_fast] [--sides compiled engine eager] [--minutes 60] [--out benchmarks/results]

`engine` trains by the preset, `compiled` does so with `train.plan.mode: compiled`. `eager` trains with the paper's hyper-parameters
(preset omniglot_5w1s) one task after the other, with two threads. Time is that of training alone: looks at the test episodes are not
counted, and choose nothing. The pictures are found as the pipeline finds them (EPISODIC_MIRROR, or the official address).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import peers
from benchmarks.speed.rows import ROWS, THREADS
from benchmarks.speed.table import existing, positive, write
from benchmarks.speed.workloads import WORKLOADS
from episodic.core.statistics import mean_ci95
from episodic.engine import allocator
from episodic.ops import backend
from episodic.training import evaluation, loop
from episodic.training.config import TrainingConfig
from episodic.training.model_folder import build_learner
from episodic.training.state import TrainingState
from tasks import params, prepared, preset
from tasks.runtime import distributed
from tasks.runtime.files import ROOT
from tasks.train import describe_learner

GOALS = (0.95, 0.97, 0.987)
STEPS, CHUNK = 3, 5
SIDES = ("compiled", "engine", "eager")
PRESETS = {"eager": "omniglot_5w1s"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset",
        default="omniglot_fast",
        choices=preset.names(),
        help="what the engine trains by",
    )
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="default: all"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="training time after which a side gives up (default: 60)",
    )
    parser.add_argument(
        "--every", type=positive, default=250, help="iterations between two looks (default: 250)"
    )
    parser.add_argument("--out", type=existing, help="folder to write time_to_accuracy.csv to")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        one(args.side, args.preset, args.minutes, args.every)
        return
    if why := ROWS["engine_compiled"].missing if "compiled" in args.sides else None:
        print(f"left out: compiled: {why}")
        args.sides.remove("compiled")
    task = [protocol(params.parse(wanted(name))) for name in (args.preset, PRESETS["eager"])]
    if task[0] != task[1]:
        sys.exit(
            f"error: --preset {args.preset} is another task than {PRESETS['eager']}; it must be maml on Omniglot, 5-way 1-shot, same split"
        )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
        for side in args.sides:
            name = PRESETS.get(side, args.preset)
            make(Path(folder, side), name)
            print(f"{side} (preset {name})", flush=True)
            command = [
                sys.executable,
                "-m",
                "benchmarks.speed.time_to_accuracy",
                "--side",
                side,
                "--preset",
                name,
            ]
            command += ["--minutes", str(args.minutes), "--every", str(args.every)]
            child = subprocess.Popen(
                command,
                cwd=Path(folder, side),
                env=stage_environment(),
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            assert child.stdout is not None  # noqa: S101
            for line in child.stdout:
                row = {"side": side, "preset": name} | json.loads(line)
                rows.append(row)
                print(
                    f"  {row['iteration']:6} iterations {row['seconds']:8.1f} s  {row['accuracy']:.2%} ± {row['ci95']:.2%}",
                    flush=True,
                )
            if child.wait():
                sys.exit(f"error: the side {side} ended with exit code {child.returncode}")
    for goal in GOALS:
        said = [f"{side} {first(rows, side, goal)}" for side in args.sides]
        print(f"{goal:.1%}: {', '.join(said)}")
    if args.out and rows:
        write(args.out / "time_to_accuracy.csv", rows)


def protocol(settings: params.Params) -> tuple[Any, ...]:
    """What both sides must have in common."""
    chosen, episodes = settings.dataset, settings.episodes
    return (
        chosen,
        settings.algorithm.name,
        settings.model,
        episodes.ways,
        episodes.shots,
        episodes.queries,
        episodes.seed,
    )


def wanted(name: str) -> dict[str, Any]:
    values = preset.defaults()
    preset.merge(
        values, params.read_yaml(preset.FOLDER / f"{name}.yaml") if name != "default" else {}
    )
    return values


def first(rows: list[dict[str, Any]], side: str, goal: float) -> str:
    for row in rows:
        if row["side"] == side and row["accuracy"] >= goal:
            return f"{row['seconds']:.0f} s ({row['iteration']} iterations)"
    return "not reached"


def stage_environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def make(folder: Path, name: str) -> None:
    """params.yaml by the preset, and prepared data."""
    folder.mkdir()
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply(name, folder / "params.yaml")
    for stage in (["download", "--out", "raw"], ["episodes", "--raw", "raw", "--out", "prepared"]):
        subprocess.run(
            [sys.executable, "-m", f"tasks.{stage[0]}", *stage[1:]],
            cwd=folder,
            check=True,
            env=stage_environment(),
            stdout=subprocess.DEVNULL,
        )


def one(side: str, name: str, minutes: float, every: int) -> None:
    """Trains in the current folder and prints a JSON line for every look."""
    settings = params.load(Path("params.yaml"), "episodes", "model", "algorithm", "train")
    config, device = settings.train, torch.device("cpu")
    source = prepared.read(Path("prepared"), device)
    meta_learner = build_learner(describe_learner(settings, source.meta))
    sampler, test = source.training(settings), source.fixed(source.table("test"))
    if side == "compiled":
        config = replace(config, plan=replace(config.plan, mode="compiled"))
        backend.prepare_compiled_kernels(device)
    plan = loop.choose_plan(sampler, config, device)
    if side != "eager":
        allocator.keep_freed_memory()
    count = (
        distributed.count_processes(None, len(plan.shard_bounds(config.meta_batch)), True, device)
        if side != "eager"
        else 1
    )
    with distributed.start_processes(count, device) as group:
        state = TrainingState.initial(meta_learner, config, device)
        if side != "eager":
            iterate = loop.build_iteration(
                meta_learner, sampler, state, config, device, plan, group
            )
        else:
            torch.set_num_threads(THREADS)
            iterate = eager(sampler, state, config)
        seconds = 0.0
        late = False
        while state.iteration < config.iterations and not late:
            begin = time.perf_counter()
            iterate()
            state.iteration += 1
            seconds += time.perf_counter() - begin
            if state.iteration % every == 0 or state.iteration == config.iterations:
                score, _ = evaluation.episode_scores(
                    meta_learner, state.theta, test, STEPS, CHUNK, group
                )
                mean, ci95 = mean_ci95(score)
                if group.rank == 0:
                    row = {
                        "iteration": state.iteration,
                        "seconds": round(seconds, 2),
                        "accuracy": round(mean, 5),
                        "ci95": round(ci95, 5),
                    }
                    print(json.dumps(row), flush=True)
                # The processes' clocks differ: the first one's counts.
                late = (
                    group.broadcast_object(
                        b"late" if seconds > 60 * minutes or mean >= GOALS[-1] else b"", device
                    )
                    == b"late"
                )


def eager(sampler: Any, state: TrainingState, config: TrainingConfig) -> Any:
    """An iteration as the paper's code has it."""
    workload = replace(WORKLOADS["W1q1"], queries=config.queries)
    theta: dict[str, torch.Tensor] = {
        name: torch.nn.Parameter(p) for name, p in peers.used(state.theta).items()
    }
    optimiser = torch.optim.Adam(theta.values(), lr=config.meta_lr)

    def iterate() -> None:
        start = state.iteration * config.meta_batch
        episode = sampler(torch.arange(start, start + config.meta_batch))
        gradient = peers.eager(workload, theta, episode)()
        for name, p in theta.items():
            p.grad = gradient[name]
        optimiser.step()
        state.theta |= {name: p.detach() for name, p in theta.items()}

    return iterate


if __name__ == "__main__":
    main()
