"""Stages run as programs in a folder with params.yaml and prepared data."""

from __future__ import annotations

import os
import re
from pathlib import Path

import warm
from support import ROOT

from tasks import preset
from tasks.runtime.stage import PROGRESS

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", PROGRESS: "json"}
TRAIN = ["--data", "prepared", "--model", "model", "--history", "history", "--run-json", "run.json"]
EVALUATE = [
    "--data",
    "prepared",
    "--model",
    "model",
    "--scores",
    "scores",
    "--metrics",
    "metrics.json",
]


def start_stage(folder: Path, name: str, *args: str) -> warm.Process:
    """Start a stage with these arguments."""
    return warm.Process(["-m", f"tasks.{name}", *args], folder, ENVIRONMENT)


def run_stage(folder: Path, name: str, *args: str, code: int = 0) -> tuple[str, str]:
    """Run a stage, which must end with `code`, and return what it prints to stdout and stderr."""
    result = warm.run(["-m", f"tasks.{name}", *args], folder, ENVIRONMENT)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def prepare_folder(folder: Path, **changes: str) -> Path:
    """Write params.yaml (preset tiny with `changes`) and prepared data to `folder`."""
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset("tiny", folder / "params.yaml")
    for key, value in changes.items():
        set_param(folder, key, value)
    run_stage(folder, "download", "--out", "raw")
    run_stage(folder, "episodes", "--raw", "raw", "--out", "prepared")
    return folder


def set_param(folder: Path, key: str, value: str) -> None:
    """Change the first `key:` of params.yaml, or of its section if `key` is `section.key`."""
    text = (folder / "params.yaml").read_text()
    section, _, key = key.rpartition(".")
    start = re.search(rf"(?m)^ *{section}:", text).end() if section else 0
    new, count = re.subn(rf"(?m)^( *{key}: )[^#\n]*", rf"\g<1>{value} ", text[start:], count=1)
    assert count == 1
    new = text[:start] + new
    (folder / "params.yaml").write_text(new)


def read_outputs(folder: Path) -> dict[str, bytes]:
    """The files that training writes, by name, apart from its times."""
    names = [
        "model/weights.safetensors",
        "model/config.json",
        "history/train.csv",
        "history/validation.csv",
    ]
    return {name: (folder / name).read_bytes() for name in names}
