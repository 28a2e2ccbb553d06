"""An archive of the layout of Lake's 20 runs, with generated drawings."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.datasets.glyphs import draw_alphabet
from episodic.datasets.sources import fetch, one_shot_runs

CHARACTERS = 20


def to_png(drawing: np.ndarray) -> bytes:
    """Return a drawing, ink 255 on 0, as the official files: 105 x 105 pixels of one bit."""
    image = Image.fromarray(drawing).resize((105, 105)).point(lambda v: 255 * (v < 100))
    file = io.BytesIO()
    image.convert("1", dither=Image.Dither.NONE).save(file, "PNG")
    return file.getvalue()


def draw_files(runs: int = 20, same_writer: bool = False) -> dict[str, bytes]:
    """Return the files of the runs: one alphabet per run, one writer per folder.

    Args:
        runs: Number of runs.
        same_writer: Whether the queries are the drawings of the support set themselves.
    """
    files = {}
    for run in range(1, runs + 1):
        shuffled, folder = random.Random(run), f"run{run:02d}"
        alphabet = draw_alphabet(run)[:CHARACTERS]
        order = shuffled.sample(range(CHARACTERS), CHARACTERS)
        pairs = []
        for item, character in enumerate(order, 1):
            query = f"{folder}/test/item{item:02d}.png"
            support = f"{folder}/training/class{character + 1:02d}.png"
            files[support] = to_png(alphabet[character, 0])
            files[query] = to_png(alphabet[character, 0 if same_writer else 1])
            pairs.append(f"{query} {support}\n")
        files[f"{folder}/class_labels.txt"] = "".join(pairs).encode()
    return files


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    """Write the files as the official archive has them, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for run in sorted({name.split("/")[0] for name in files}):
            for folder in ("", "test/", "training/"):
                archive.writestr(f"{run}/{folder}", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def accept(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """Make these files the official ones."""
    monkeypatch.setattr(one_shot_runs, "CONTENT", fetch.content_digest(files))
