"""Training time until 95, 97 and 98.7 % accuracy on the 1,000 test episodes of Omniglot.

    python -m benchmarks.speed.time_to_accuracy [--preset omniglot_fast] [--minutes 60]
        [--sides compiled engine eager] [--out benchmarks/results]

The task is 5-way 1-shot with split `maml`, after 3 inner steps. `engine` trains by the preset,
`compiled` likewise with `train.plan.mode: compiled`. `eager`, a sequential loop over tasks, trains
with the paper's hyperparameters (preset omniglot_5w1s) and two threads. Only training is timed, not
the evaluations on test episodes, which do not affect it. Images are loaded as in the pipeline
(EPISODIC_MIRROR, or the official address).
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
from benchmarks.speed.table import parse_folder, parse_positive, write
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
        choices=preset.list_presets(),
        help="preset of the engine",
    )
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=list(SIDES),
        help="variants to measure (default: all)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="training time limit per variant (default: 60)",
    )
    parser.add_argument(
        "--every",
        type=parse_positive,
        default=250,
        help="iterations between two evaluations (default: 250)",
    )
    parser.add_argument("--out", type=parse_folder, help="folder to write time_to_accuracy.csv to")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        train(args.side, args.minutes, args.every)
        return
    if why := ROWS["engine_compiled"].missing if "compiled" in args.sides else None:
        print(f"excluded: compiled: {why}")
        args.sides.remove("compiled")
    task = [
        list_shared_settings(params.parse(preset_values(name)))
        for name in (args.preset, PRESETS["eager"])
    ]
    if task[0] != task[1]:
        sys.exit(
            f"error: --preset {args.preset} defines a different task from {PRESETS['eager']}; "
            "it must be maml on Omniglot, 5-way 1-shot, with the same split"
        )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
        for side in args.sides:
            name = PRESETS.get(side, args.preset)
            prepare(Path(folder, side), name)
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
                    f"  {row['iteration']:6} iterations {row['seconds']:8.1f} s  "
                    f"{row['accuracy']:.2%} ± {row['ci95']:.2%}",
                    flush=True,
                )
            if child.wait():
                sys.exit(f"error: the variant {side} ended with exit code {child.returncode}")
    for goal in GOALS:
        times = [f"{side} {time_to_goal(rows, side, goal)}" for side in args.sides]
        print(f"{goal:.1%}: {', '.join(times)}")
    if args.out and rows:
        write(args.out / "time_to_accuracy.csv", rows)


def list_shared_settings(settings: params.Settings) -> tuple[Any, ...]:
    """List the settings that must be equal in all variants."""
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


def preset_values(name: str) -> dict[str, Any]:
    values = params.default_params()
    params.merge_into(
        values, params.read_yaml(preset.PRESETS / f"{name}.yaml") if name != "default" else {}
    )
    return values


def time_to_goal(rows: list[dict[str, Any]], side: str, goal: float) -> str:
    for row in rows:
        if row["side"] == side and row["accuracy"] >= goal:
            return f"{row['seconds']:.0f} s ({row['iteration']} iterations)"
    return "not reached"


def stage_environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def prepare(folder: Path, name: str) -> None:
    """Write params.yaml for the preset and prepare the data."""
    folder.mkdir()
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset(name, folder / "params.yaml")
    for stage in (["download", "--out", "raw"], ["episodes", "--raw", "raw", "--out", "prepared"]):
        subprocess.run(
            [sys.executable, "-m", f"tasks.{stage[0]}", *stage[1:]],
            cwd=folder,
            check=True,
            env=stage_environment(),
            stdout=subprocess.DEVNULL,
        )


def train(side: str, minutes: float, every: int) -> None:
    """Train in the current folder and print one JSON line per evaluation."""
    settings = params.load(Path("params.yaml"), "episodes", "model", "algorithm", "train")
    config, device = settings.train, torch.device("cpu")
    source = prepared.open_folder(Path("prepared"), device)
    meta_learner = build_learner(describe_learner(settings, source.meta))
    sampler, test = (
        source.training_sampler(settings),
        source.build_episodes(source.read_episodes("test")),
    )
    if side == "compiled":
        config = replace(config, plan=replace(config.plan, mode="compiled"))
        backend.prepare_compiled_kernels(device)
    plan = loop.choose_training_plan(sampler, config, device)
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
                mean, ci95 = mean_ci95(score, share=True)
                if group.rank == 0:
                    row = {
                        "iteration": state.iteration,
                        "seconds": round(seconds, 2),
                        "accuracy": round(mean, 5),
                        "ci95": round(ci95, 5),
                    }
                    print(json.dumps(row), flush=True)
                # The clocks of processes differ; rank 0 decides.
                late = (
                    group.broadcast_object(
                        b"late" if seconds > 60 * minutes or mean >= GOALS[-1] else b"", device
                    )
                    == b"late"
                )


def eager(sampler: Any, state: TrainingState, config: TrainingConfig) -> Any:
    """Build an iteration of the sequential loop over tasks, as in the code of the paper."""
    workload = replace(WORKLOADS["W1q1"], queries=config.queries)
    theta: dict[str, torch.Tensor] = {
        name: torch.nn.Parameter(p) for name, p in peers.drop_unused_biases(state.theta).items()
    }
    optimizer = torch.optim.Adam(theta.values(), lr=config.meta_lr)

    def iterate() -> None:
        start = state.iteration * config.meta_batch
        episode = sampler(torch.arange(start, start + config.meta_batch))
        gradient = peers.eager(workload, theta, episode)()
        for name, p in theta.items():
            p.grad = gradient[name]
        optimizer.step()
        state.theta |= {name: p.detach() for name, p in theta.items()}

    return iterate


if __name__ == "__main__":
    main()
