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


def start(folder: Path, name: str, *words: str) -> warm.Process:
    return warm.Process(["-m", f"tasks.{name}", *words], folder, ENVIRONMENT)


def call(folder: Path, name: str, *words: str, code: int = 0) -> tuple[str, str]:
    result = warm.run(["-m", f"tasks.{name}", *words], folder, ENVIRONMENT)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def prepare(folder: Path, **changes: str) -> Path:
    """`folder` with params.yaml (preset tiny, each change OLD=NEW made) and prepared data."""
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset("tiny", folder / "params.yaml")
    for key, value in changes.items():
        change(folder, key, value)
    call(folder, "download", "--out", "raw")
    call(folder, "episodes", "--raw", "raw", "--out", "prepared")
    return folder


def change(folder: Path, key: str, value: str) -> None:
    """Change the first `key:` of params.yaml, or of its section if `key` is `section.key`."""
    text = (folder / "params.yaml").read_text()
    section, _, key = key.rpartition(".")
    start = re.search(rf"(?m)^ *{section}:", text).end() if section else 0
    new, count = re.subn(rf"(?m)^( *{key}: )[^#\n]*", rf"\g<1>{value} ", text[start:], count=1)
    assert count == 1
    new = text[:start] + new
    (folder / "params.yaml").write_text(new)


def outputs(folder: Path) -> dict[str, bytes]:
    names = [
        "model/weights.safetensors",
        "model/config.json",
        "history/train.csv",
        "history/validation.csv",
    ]
    return {name: (folder / name).read_bytes() for name in names}
