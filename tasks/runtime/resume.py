"""Checkpoints from which interrupted training resumes.

They are not declared as outputs of the stage, because DVC deletes outputs before a run. They are
kept in `resume/` next to DVC's cache, where all experiment workspaces that share the cache find
them. A folder is named by the digest of everything that the result depends on (settings, inputs,
code, torch), so training never resumes from a checkpoint of different settings. The folder is
locked while in use. It is deleted once the outputs are written, since a forced rerun would
otherwise only copy its result.
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

from tasks.runtime.files import compute_digest, read_json, write_json
from tasks.runtime.stage import StageError

STATE, SECONDS = "state.safetensors", "seconds.json"


def find_checkpoint_root(workspace: Path = Path()) -> Path:
    """Return `.dvc/resume`, or `resume/` next to the cache if DVC's configuration moves it."""
    dvc = workspace / ".dvc"
    for name in ("config.local", "config"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read(dvc / name, encoding="utf-8")
        if folder := config.get("cache", "dir", fallback=None):
            return (dvc / folder).resolve().parent / "resume"
    return dvc / "resume"


def compute_checkpoint_key(
    settings: dict[str, Any], inputs: Path, device: torch.device, code: str
) -> str:
    """Compute the digest of everything that a training run depends on.

    Args:
        settings: The settings of the run.
        inputs: Folder of the prepared data.
        device: Device of the run.
        code: Digest of the code.
    """
    versions = [
        torch.__version__,
        np.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
    ]
    versions += [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type]
    text = json.dumps([settings, compute_digest(inputs), code, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_elapsed(folder: Path) -> float:
    """Read the training time in seconds before the checkpoint in `folder`; 0 if there is none."""
    file = folder / SECONDS
    return float(read_json(file)["seconds"]) if file.exists() and (folder / STATE).exists() else 0.0


def write_elapsed(folder: Path, elapsed: float) -> None:
    """Write the elapsed training time in seconds.

    It is kept out of the checkpoint, which must be reproducible.
    """
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
                f"another process is already executing this training run (lock file "
                f"{folder / 'lock'}); wait for it to finish, or stop it"
            ) from error
        yield folder / STATE
        shutil.rmtree(folder)
