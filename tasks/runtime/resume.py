"""Checkpoints from which interrupted training resumes.

They are no outputs of the stage, since DVC deletes those before a run. They are kept in `resume/`
next to DVC's cache, where all experiment workspaces that share the cache find them. The name of a
folder is the digest of everything that the result depends on (settings, inputs, code, torch), so
training never resumes from a checkpoint of other settings. The folder is locked while in use and
deleted once the outputs are written. Otherwise a forced rerun would only copy its result.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.runtime.files import digest, read_json, write_json
from tasks.runtime.stage import StageError

STATE, SECONDS = "state.safetensors", "seconds.json"


def checkpoint_root(workspace: Path = Path()) -> Path:
    """`.dvc/resume`, or `resume/` next to the cache where DVC's configuration moves it."""
    dvc = workspace / ".dvc"
    for name in ("config.local", "config"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read(dvc / name, encoding="utf-8")
        if folder := config.get("cache", "dir", fallback=None):
            return (dvc / folder).resolve().parent / "resume"
    return dvc / "resume"


def checkpoint_key(settings: dict[str, Any], inputs: Path, device: torch.device, code: str) -> str:
    """Digest of everything that a training depends on; code: digest of its code."""
    versions = [
        torch.__version__,
        np.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
    ]
    versions += [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type]
    text = json.dumps([settings, digest(inputs), code, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_elapsed(folder: Path) -> float:
    """Seconds of training before the checkpoint in `folder` was written, 0 without a checkpoint."""
    file = folder / SECONDS
    return float(read_json(file)["seconds"]) if file.exists() and (folder / STATE).exists() else 0.0


def write_elapsed(folder: Path, elapsed: float) -> None:
    """Write the seconds of training, which the reproducible checkpoint must not hold."""
    write_json(folder / SECONDS, {"seconds": round(elapsed, 2)})


@contextmanager
def lock_checkpoint(folder: Path) -> Iterator[Path]:
    """Lock `folder` and yield the path of its checkpoint; delete the folder on success."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                f"another process runs the same training (lock {folder / 'lock'}); "
                "wait for it, or stop it"
            ) from error
        yield folder / STATE
        shutil.rmtree(folder)
