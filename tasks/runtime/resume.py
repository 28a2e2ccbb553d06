"""Where a training that was killed goes on.

Resume checkpoints lie outside DVC's outs, since DVC deletes those before a run: in `resume/` beside DVC's cache, where all
experiment workspaces that share the cache find them. A folder's name is the digest of everything that the result depends on
(parameters, inputs, code, torch), so that a change of any of them never resumes from an old one. It is locked while in use and
deleted once the outputs are written: left behind, it would turn a forced rerun into a copy.
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


def root(workspace: Path = Path()) -> Path:
    """`resume/` beside DVC's cache: `.dvc/resume`, unless the configuration puts the cache elsewhere."""
    dvc = workspace / ".dvc"
    for name in ("config.local", "config"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read(dvc / name, encoding="utf-8")
        if folder := config.get("cache", "dir", fallback=None):
            return (dvc / folder).resolve().parent / "resume"
    return dvc / "resume"


def key(settings: dict[str, Any], inputs: Path, device: torch.device, code: str) -> str:
    """The digest of what a training depends on; code: the digest of its code."""
    versions = [
        torch.__version__,
        np.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
    ]
    versions += [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type]
    said = json.dumps([settings, digest(inputs), code, versions], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def seconds(folder: Path) -> float:
    """How long the training had taken when its checkpoint in `folder` was written; 0 where there is none."""
    file = folder / SECONDS
    return float(read_json(file)["seconds"]) if file.exists() and (folder / STATE).exists() else 0.0


def keep_seconds(folder: Path, spent: float) -> None:
    """Beside the checkpoint, whose own bytes are the same every time."""
    write_json(folder / SECONDS, {"seconds": round(spent, 2)})


@contextmanager
def checkpoint(folder: Path) -> Iterator[Path]:
    """The path of the resume checkpoint in `folder`, locked; the folder is deleted if the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                f"another process is running this very training (lock {folder / 'lock'}); wait for it or stop it"
            ) from error
        yield folder / STATE
        shutil.rmtree(folder)
