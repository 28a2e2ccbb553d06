"""Stage `train`: prepared data -> the best meta-parameters by validation, and the history of training.

Kill it at any time and run it again: it goes on from its last checkpoint and ends with the same bytes.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from episodic import checkpoint, memory, train
from tasks import params, prepared, resume, stage
from tasks.files import ROOT, code_digest, folder_beside, write_json
from tasks.model import FORMAT, learner


def run(settings: params.Params, data: Path, model: Path, history: Path, run_json: Path) -> None:
    """Writes the files described in docs/files.md, section models/run."""
    memory.keep_freed()
    start = time.perf_counter()
    device = prepared.pick_device(settings.device)
    source = prepared.read(data, device)
    config: dict[str, Any] = {
        "model": {"name": settings.model.name} | asdict(settings.model.config),
        "algorithm": {"name": settings.algorithm.name} | asdict(settings.algorithm.config),
        "batch_norm": settings.train.batch_norm,
        "input": source.meta["input"],
        "kind": source.kind,
    }
    meta_learner = learner(**config, outputs=source.outputs)
    sampler, validation = source.training(settings), source.fixed(source.table("validation"))
    code = code_digest()
    folder = resume.root() / resume.key({"train": asdict(settings.train), "shots": settings.episodes.shots} | config, data, device)
    with resume.checkpoint(folder) as state, stage.bar("train", "iterations", settings.train.iterations) as bar:
        result = train.train(
            meta_learner,
            sampler,
            validation,
            settings.train,
            checkpoint_path=state,
            on_progress=lambda done, figures: bar.update(done, figures=figures),
            on_resume=lambda done: stage.emit("resume", stage="train", iteration=done),
        )
        seconds = time.perf_counter() - start
        description = config | {
            "format": FORMAT, "dataset": source.meta["dataset"], "ways": source.meta["ways"], "shots": source.meta["shots"],
            "iteration": result.iteration, "iterations": result.iterations, "validation": result.score,
            "parameters": sum(p.numel() for p in result.theta.values()), "data_digest": source.meta["data_digest"], "code_digest": code,
        }  # fmt: skip
        with folder_beside(model) as draft:
            checkpoint.save(draft / "weights.safetensors", result.theta, {})
            write_json(draft / "config.json", description)
        with folder_beside(history) as draft:
            pd.DataFrame(result.history.train).to_csv(draft / "train.csv", index=False)
            pd.DataFrame(result.history.validation).to_csv(draft / "validation.csv", index=False)
        write_json(run_json, _run_facts(result, seconds, device))


def _run_facts(result: train.Result, seconds: float, device: torch.device) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    done = result.iterations - result.resumed_at
    return {
        "seconds": round(seconds, 2),
        "iterations_per_second": round(done / seconds, 3),
        "resumed_at": result.resumed_at,
        "peak_memory_bytes": peak,
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if gpu else None,
        "device": device.type,
        "gpu": gpu,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.system(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    try:
        answer = subprocess.run(["git", "rev-parse", "--verify", "--quiet", "HEAD"], cwd=ROOT, capture_output=True, text=True)
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
        lambda: run(params.load(args.params, "episodes", "model", "algorithm", "train"), args.data, args.model, args.history, args.run_json)
    )


if __name__ == "__main__":
    main()
