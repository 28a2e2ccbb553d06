"""Stages run as programs in a folder with params.yaml and prepared data."""

from __future__ import annotations

import html
import os
import re
from contextlib import nullcontext, suppress
from pathlib import Path

import warm
from support import ROOT

from tasks import preset
from tasks.reports.kit.wording import NBSP
from tasks.runtime.stage import PROGRESS, StageError

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
CARD = "model/README.md"
REPORT = [
    *("--data", "prepared", "--model", "model", "--history", "history", "--scores", "scores"),
    *("--metrics", "metrics.json", "--html", "report.html", "--tasks", "tasks.html"),
    *("--summary", "summary", "--card", CARD),
]

TOPICS = ["weather", "music", "travel", "money", "food", "sport", "garden", "health"]
VERBS = ["ask", "tell", "show", "find", "book", "want", "need", "like", "give", "take", "send"]


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
    write_params(folder, "tiny", **changes)
    return prepare_data(folder)


def prepare_data(folder: Path) -> Path:
    """Write the prepared data of params.yaml to `folder`."""
    run_stage(folder, "download", "--out", "raw")
    run_stage(folder, "episodes", "--raw", "raw", "--out", "prepared")
    return folder


def prepare_sentences(folder: Path, **changes: str) -> Path:
    """Prepare n-gram vectors of 24 labels with 11 sentences each, for a model without parameters.

    The sentences of a label have words of their own.
    """
    rows = [
        f"{verb} me {topic} {verb}s {word}{topic},{topic} {word}"
        for topic in TOPICS
        for word in ("daily", "nightly", "yearly")
        for verb in VERBS
    ]
    (folder / "sentences.csv").write_text("\n".join(["text,label", *rows]))
    settings = {
        "dataset.name": "text_folder",
        "dataset.source": "sentences.csv",
        "text_folder.size": "512",
        "model.name": "mlp",
        "mlp.hidden": "[]",
        "episodes.queries": "4",
    }
    return prepare_folder(folder, **(settings | changes))


def write_params(
    folder: Path, preset_name: str, source: Path | None = None, **changes: str
) -> None:
    """Write params.yaml to `folder`: a preset, the path of the user's own data, and `changes`.

    The changes may correct values of the preset that do not fit the data.
    """
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with nullcontext() if source is None else suppress(StageError):
        preset.apply_preset(preset_name, folder / "params.yaml", source and str(source))
    for key, value in changes.items():
        set_param(folder, key, value)


def set_param(folder: Path, key: str, value: str) -> None:
    """Change the first `key:` of params.yaml, or of its section if `key` is `section.key`.

    The key has a line of its own, or is one of `{a: 1, b: 2}`.
    """
    text = (folder / "params.yaml").read_text()
    section, _, key = key.rpartition(".")
    start = re.search(rf"(?m)^ *{section}:", text).end() if section else 0
    pattern = rf"(?m)^(?P<line> *{key}: )[^#\n]*|(?P<item>[{{,] *{key}: )[^,}}\n]*"
    found = re.compile(pattern).search(text, start)
    new = f"{found['line']}{value} " if found["line"] else f"{found['item']}{value}"
    (folder / "params.yaml").write_text(text[: found.start()] + new + text[found.end() :])


def read_text(path: Path) -> str:
    """Read a page or a Markdown file without HTML entities and no-break spaces."""
    return html.unescape(path.read_text()).replace(NBSP, " ")


def read_outputs(folder: Path) -> dict[str, bytes]:
    """The files that training writes, by name, apart from its times."""
    names = [
        "model/weights.safetensors",
        "model/config.json",
        "history/train.csv",
        "history/validation.csv",
    ]
    return {name: (folder / name).read_bytes() for name in names}
