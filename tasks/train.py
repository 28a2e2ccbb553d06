"""Stage `train`: train the model and keep the meta-parameters with the best validation score.

If no meta-parameter is learned, such as with `protonet` on a model without parameters, the stage
estimates what the algorithm needs from training episodes and validates the model once.

Interrupted runs resume from the last checkpoint, with bitwise-identical results. The processes of a
run (params `processes`, or those of `torchrun -m tasks.train`) share each meta-batch. Their number
does not affect the result.
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

from episodic.core.config import ConfigError
from episodic.core.model import Params
from episodic.engine import allocator
from episodic.engine.learner import MetaLearner
from episodic.engine.plan import Plan
from episodic.engine.processes import ProcessGroup
from episodic.ops import backend
from episodic.training import loop, model_folder
from episodic.training.config import TrainingConfig
from episodic.training.reliability import Reliability, fit_reliability
from tasks import params, prepared
from tasks.initial_values import fit_initial_values
from tasks.runtime import class_selection, distributed, resume, stage
from tasks.runtime.files import ROOT, atomic_folder, compute_code_digest, write_json
from tasks.runtime.stage import StageError


def run(settings: params.Settings, data: Path, model: Path, history: Path, run_json: Path) -> None:
    """Train the model, and write models/run as described in docs/reference/files.md."""
    allocator.keep_freed_memory()
    start = time.perf_counter()
    device = distributed.prepare_device(settings.device)
    source = prepared.open_folder(data, device)
    classes = None
    if source.kind == "classification":
        classes = class_selection.select_classes(source.read_classes(), settings.train)
        source = source.refit_features(classes)
    config = describe_learner(settings, source.meta)
    if classes is not None:
        config["classes"] = len(classes)
        if source.encodes_texts:
            config["fitted_classes"] = classes["class"].to_list()
    learner = model_folder.build_learner(config)
    initial = learner.init(settings.train.seed)
    learns = learner.has_learned_parameters(initial)
    if learner.test_variant.algorithm.transductive:
        config["transductive"] = True
    sampler = source.training_sampler(settings, learner.algorithm.labels)
    validation = source.load_episodes("validation")
    plan = loop.choose_training_plan(sampler, settings.train, device, learner)
    compiler = backend.prepare_compiled_kernels(device) if plan.compiled else None
    shards = len(plan.shard_bounds(settings.train.meta_batch)) if learns else 1
    code = compute_code_digest(_find_user_code(learner))
    inputs = config | {
        "train": asdict(settings.train),
        "shots": settings.episodes.shots,
        "compiler": compiler,
    }
    folder = resume.find_checkpoint_root() / resume.compute_checkpoint_key(
        inputs, data, device, code
    )
    count = distributed.count_processes(
        settings.processes, shards, is_large=shards > 1, device=device
    )
    with distributed.start_processes(count, device) as group:
        if group.size > shards:
            raise StageError(_describe_idle(group.size, shards, settings.train.meta_batch))
        is_first = group.rank == 0
        if is_first and learns:
            stage.emit("plan", **_describe_plan(plan, group.size))
        elif is_first:
            estimated = {"estimated": " and ".join(initial)} if initial else {}
            stage.emit("nothing to train", stage="train", **estimated)
        with (
            resume.lock_checkpoint(folder) if is_first else nullcontext() as checkpoint,
            stage.ProgressReporter(
                "train", "iterations", settings.train.iterations, silent=not (is_first and learns)
            ) as progress,
        ):
            elapsed_before = resume.read_elapsed(folder)

            def measure_elapsed() -> float:
                return elapsed_before + time.perf_counter() - start

            def on_progress(done: int, metrics: dict[str, float]) -> None:
                progress.update(done, metrics=metrics)
                if is_first and done % settings.train.checkpoint_every == 0:
                    resume.write_elapsed(folder, measure_elapsed())

            def on_resume(iteration: int) -> None:
                if is_first:
                    stage.emit("resume", stage="train", iteration=iteration)

            result = loop.train(
                learner,
                sampler,
                validation,
                settings.train,
                plan=plan,
                group=group,
                checkpoint_path=checkpoint,
                initial=fit_initial_values(source, learner, settings.train.seed),
                on_progress=on_progress,
                on_resume=on_resume,
            )
            reliability = {}
            if source.kind == "classification":
                reliability = _fit_reliability(
                    learner, result.members, source, settings.train, group
                )
            elapsed = measure_elapsed()
            run_facts = _describe_run(result, elapsed, device, group, plan, compiler)
            run_facts["nothing_to_train"] = not learns
            if not is_first:
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
            if reliability:
                description["reliability"] = {
                    mode: [entry.to_json() for entry in fitted]
                    for mode, fitted in reliability.items()
                }
            if source.is_varied:
                description["varied"] = source.meta["varied"]
            if transforms := settings.train.augmentation.transforms:
                description["augmentation"] = transforms
            model_folder.save(model, result.members, description)
            score = learner.objective.score_name
            columns = ("iteration", "loss", score, "gradient_norm", "meta_lr")
            train_table = pd.DataFrame(result.history.train or {name: [] for name in columns})
            with atomic_folder(history) as draft:
                train_table.to_csv(draft / "train.csv", index=False)
                validation_table = pd.DataFrame(result.history.validation)
                validation_table.to_csv(draft / "validation.csv", index=False)
            write_json(run_json, run_facts)


def _fit_reliability(
    learner: MetaLearner,
    members: list[Params],
    source: prepared.PreparedFolder,
    settings: TrainingConfig,
    group: ProcessGroup,
) -> dict[str, list[Reliability]]:
    """Learn how far predictions can be trusted, on the validation episodes of every size.

    Returns:
        What was learned by batch-norm mode, the main size first. Adapted models are inductive. The
        mode of the run is calibrated for its evaluation.
    """
    fitted: dict[str, list[Reliability]] = {"inductive": []}
    for size in (None, *source.other_sizes):
        sized = source if size is None else source.at_size(size)
        episodes = sized.load_episodes("validation")
        try:
            learner.test_variant.check_ways(episodes.slice_tasks(0, 1))
        except ConfigError:
            if group.rank == 0:
                name = prepared.name_episodes("validation", size)
                stage.emit("not calibrated for other ways", stage="train", episodes=name)
            continue
        modes = ["inductive"]
        if size is None and learner.model.norm_names and learner.batch_norm not in modes:
            modes.append(learner.batch_norm)
        for mode in modes:
            entry = fit_reliability(
                replace(learner, batch_norm=mode),
                members,
                episodes,
                sized.open_queries("validation") if mode == "inductive" else None,
                settings.calibration,
                source.meta["seed"],
                group,
            )
            entry = replace(entry, ways=sized.meta["ways"], shots=sized.meta["shots"])
            fitted.setdefault(mode, []).append(entry)
    return fitted


def describe_learner(settings: params.Settings, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the part of `models/run/config.json` that defines the learner.

    Args:
        settings: The settings of the run.
        meta: `data/prepared/meta.json`.
    """
    model, algorithm = settings.model, settings.algorithm
    if getattr(model.config, "start", 0.0) is None and "targets" in meta:
        model = replace(model, config=replace(model.config, start=meta["targets"]["mean"]))
    return {
        "model": {"name": model.name} | asdict(model.config),
        "algorithm": {"name": algorithm.name} | asdict(algorithm.config),
        "batch_norm": settings.train.batch_norm,
        "input": meta["input"],
        "inputs": meta["inputs"],
        "kind": meta["kind"],
        "ways": meta["ways"],
        "classes": meta["classes"].get("train", 0),
    }


def _find_user_code(learner: MetaLearner) -> list[Path]:
    """List the files of a user's model or algorithm that is not part of the project."""
    components = [learner.algorithm, *getattr(learner.model, "parts", [learner.model])]
    files = {
        Path(name).resolve()
        for component in components
        if (name := getattr(sys.modules.get(type(component).__module__), "__file__", None))
    }
    library_folders = (ROOT / "episodic", Path(torch.__file__).parent)
    return sorted(f for f in files if not any(f.is_relative_to(d) for d in library_folders))


def _describe_idle(processes: int, shards: int, meta_batch: int) -> str:
    shard = f"set train.plan.shard to {meta_batch // processes}"
    remedy = shard if processes <= meta_batch else "raise train.meta_batch"
    return (
        f"{processes} processes were started for {shards} shard(s) of the meta-batch, so some "
        f"would be idle; start fewer, or {remedy}"
    )


def _describe_plan(plan: Plan, processes: int) -> dict[str, Any]:
    return {
        "stage": "train",
        "mode": plan.mode,
        "tasks_at_once": plan.shard,
        "query_sets_at_once": plan.query_tasks,
        "processes": processes,
        "because": plan.reason,
    }


def _describe_run(
    result: loop.TrainingResult,
    elapsed: float,
    device: torch.device,
    group: ProcessGroup,
    plan: Plan,
    compiler: str | None,
) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "seconds": round(elapsed, 2),
        "iterations_per_second": round(result.iterations / elapsed, 3),
        "resumed_at": result.resumed_at,
        "peak_memory_bytes": distributed.measure_peak_memory(group, device),
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
        "commit": _read_commit(),
    }


def _read_commit() -> str | None:
    try:
        process = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return process.stdout.strip() or None


def main() -> None:
    parser = stage.build_parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder to write: weights and their description",
        history="folder to write: tables of the training history",
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
