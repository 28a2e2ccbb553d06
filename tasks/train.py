"""Stage `train`: prepared data -> the best meta-parameters by validation, and the history of training.

Kill it at any time and run it again: it goes on from its last checkpoint and ends with the same bytes. Its processes (params
`processes`, or those of `torchrun -m tasks.train`) share each meta-batch; how many there are changes no byte of the result.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from episodic.engine import allocator
from episodic.engine.learner import MetaLearner
from episodic.engine.plan import Plan
from episodic.engine.processes import Group
from episodic.ops import backend
from episodic.training import loop, model_folder
from tasks import params, prepared
from tasks.runtime import class_selection, distributed, resume, stage
from tasks.runtime.files import ROOT, atomic_folder, code_digest, write_json
from tasks.runtime.stage import StageError


def run(settings: params.Params, data: Path, model: Path, history: Path, run_json: Path) -> None:
    """Writes the files described in docs/files.md, section models/run."""
    allocator.keep_freed()
    start = time.perf_counter()
    device = distributed.prepare_device(settings.device)
    source = prepared.read(data, device)
    config = described(settings, source.meta)
    if source.kind == "classification":
        config["classes"] = len(class_selection.chosen(source.classes(), settings.train))
    meta_learner = model_folder.build_learner(config)
    sampler, validation = (
        source.training(settings, meta_learner.algorithm.labels),
        source.fixed(source.table("validation")),
    )
    plan = loop.choose_plan(sampler, settings.train, device)
    compiler = backend.prepare(device) if plan.compiled else None
    shards = len(plan.bounds(settings.train.meta_batch))
    code = code_digest(_foreign(meta_learner))
    asked = {
        "train": asdict(settings.train),
        "shots": settings.episodes.shots,
        "compiler": compiler,
    }
    folder = resume.root() / resume.key(asked | config, data, device, code)
    count = distributed.suited(settings.processes, shards, large=shards > 1, device=device)
    with distributed.group(count, device) as group:
        if group.size > shards:
            raise StageError(_idle(group.size, shards, settings.train.meta_batch))
        first = group.rank == 0
        if first:
            stage.emit("plan", **_said(plan, group.size))
        with (
            resume.checkpoint(folder) if first else nullcontext(None) as state,
            stage.bar("train", "iterations", settings.train.iterations)
            if first
            else nullcontext() as bar,
        ):
            before = resume.seconds(folder)

            def on_progress(done: int, figures: dict[str, float]) -> None:
                if bar:
                    bar.update(done, figures=figures)
                    if done % settings.train.checkpoint_every == 0:
                        resume.keep_seconds(folder, before + time.perf_counter() - start)

            result = loop.train(
                meta_learner,
                sampler,
                validation,
                settings.train,
                plan=plan,
                group=group,
                checkpoint_path=state,
                on_progress=on_progress,
                on_resume=lambda done: (
                    stage.emit("resume", stage="train", iteration=done) if first else None
                ),
            )
            seconds = before + time.perf_counter() - start
            facts = _run_facts(result, seconds, device, group, plan, compiler)
            if not first:
                return
            description = config | {
                "dataset": source.meta["dataset"],
                "shots": source.meta["shots"],
                "iteration": result.iteration,
                "iterations": result.iterations,
                "validation": result.score,
                "parameters": sum(p.numel() for p in result.theta.values()),
                "data_digest": source.meta["data_digest"],
                "code_digest": code,
            }
            model_folder.save(model, result.members, description)
            with atomic_folder(history) as draft:
                pd.DataFrame(result.history.train).to_csv(draft / "train.csv", index=False)
                pd.DataFrame(result.history.validation).to_csv(
                    draft / "validation.csv", index=False
                )
            write_json(run_json, facts)


def described(settings: params.Params, data: dict[str, Any]) -> dict[str, Any]:
    """What of `models/run/config.json` makes the meta-learner, from params and `data/prepared/meta.json`."""
    chosen = {"model": settings.model, "algorithm": settings.algorithm}
    if getattr(settings.model.config, "start", 0.0) is None and "targets" in data:
        chosen["model"] = replace(
            settings.model, config=replace(settings.model.config, start=data["targets"]["mean"])
        )
    return {
        section: {"name": choice.name} | asdict(choice.config) for section, choice in chosen.items()
    } | {
        "batch_norm": settings.train.batch_norm,
        "input": data["input"],
        "inputs": data["inputs"],
        "kind": data["kind"],
        "ways": data["ways"],
        "classes": data["classes"].get("train", 0),
    }


def _foreign(learner: MetaLearner) -> list[Path]:
    """The files of what is not the project's own and yet computes: a user's network, or a method registered from outside."""
    parts = [learner.algorithm, *getattr(learner.model, "parts", [learner.model])]
    files = {
        Path(name).resolve()
        for part in parts
        if (name := getattr(sys.modules.get(type(part).__module__), "__file__", None))
    }
    return sorted(
        f
        for f in files
        if not f.is_relative_to(ROOT / "episodic")
        and not f.is_relative_to(Path(torch.__file__).parent)
    )


def _idle(processes: int, shards: int, meta_batch: int) -> str:
    remedy = (
        f"set train.plan.shard to {meta_batch // processes}"
        if processes <= meta_batch
        else "raise train.meta_batch"
    )
    return f"{processes} processes for {shards} shard(s) of the meta-batch, so that some would stand idle: start fewer, or {remedy}"


def _said(plan: Plan, processes: int) -> dict[str, Any]:
    """The plan for the log."""
    return {
        "stage": "train",
        "mode": plan.mode,
        "tasks_at_once": plan.shard,
        "query_sets_at_once": plan.query_tasks,
        "processes": processes,
        "because": plan.why,
    }


def _run_facts(
    result: loop.TrainingResult,
    seconds: float,
    device: torch.device,
    group: Group,
    plan: Plan,
    compiler: str | None,
) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "seconds": round(seconds, 2),
        "iterations_per_second": round(result.iterations / seconds, 3),
        "resumed_at": result.resumed_at,
        "peak_memory_bytes": distributed.peak_memory(group, device),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if gpu else None,
        "device": device.type,
        "gpu": gpu,
        "processor": platform.processor() or platform.machine(),
        "processes": group.size,
        "plan": asdict(plan),
        "compiler": compiler,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.system(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return answer.stdout.strip() or None


def main() -> None:
    parser = stage.parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder to write: weights and their description",
        history="folder to write: tables of the training's course",
        run_json="file to write: seconds, memory, hardware, versions",
    )
    args = parser.parse_args()
    stage.run(
        lambda: run(
            params.load(args.params, "episodes", "model", "algorithm", "train"),
            args.data,
            args.model,
            args.history,
            args.run_json,
        )
    )


if __name__ == "__main__":
    main()
