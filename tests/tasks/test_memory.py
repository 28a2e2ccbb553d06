"""The memory of encoding photographs does not grow with their number, except for the vectors."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stages import set_param
from support import ROOT

import episodic
from episodic.core.blocks import BLOCK
from episodic.preprocessing.encoders import encoder as encoders
from episodic.preprocessing.encoders.importing import import_weights
from tasks import download, episodes, params, preset
from tasks.runtime.files import read_json

CLASSES, FEW, MANY = 16, BLOCK, 3 * BLOCK
SIZE = 64
PIXELS = 3 * SIZE * SIZE
"""Bytes of one image as the encoder expects it."""

VECTOR = 4 * 1280
"""Bytes of the features of one image."""


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder of few and one of many images, and an encoder whose network is replaced."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = encoders.find_encoder("efficientnet_lite0")
    sizes = {"size": SIZE, "resize": SIZE}
    import_weights(source, tmp_path / "small.safetensors", "efficientnet_lite0", sizes)
    monkeypatch.setattr(
        encoders.ImageEncoder,
        "_forward",
        lambda self, images: np.full((len(images), self.description.width), 0.5, np.float32),
    )
    for count in (FEW, MANY):
        for row in range(count):
            path = tmp_path / f"own{count}/class{row % CLASSES:02d}/{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = row % 256, row // 256, 0  # different images, so none is in the cache
            Image.new("RGB", (8, 8), colour).save(path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset("tiny", tmp_path / "params.yaml")
    for key, value in {
        "dataset.name": "image_folder",
        "model.name": "mlp",
        "mlp.hidden": "[]",
        "algorithm.name": "meta_baseline",
        "episodes.ways": "3",
        "image_folder.kind": "encoder",
        "image_folder.path": "small.safetensors",
    }.items():
        set_param(tmp_path, key, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measure_growth(run: Callable[[int], object]) -> float:
    """Compute how much the peak of Python's and NumPy's memory grows per image, in bytes.

    Tensors are not counted, unless NumPy allocated them.
    """
    peaks = []
    for count in (FEW, MANY):
        tracemalloc.start()
        run(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (MANY - FEW)


def test_memory_is_flat_in_the_number_of_images(workspace):
    def prepare(count: int) -> None:
        set_param(workspace, "dataset.source", f"own{count}")
        settings = params.load(workspace / "params.yaml", "dataset", "episodes")
        download.run(settings, workspace / f"raw{count}")
        episodes.run(settings, workspace / f"raw{count}", workspace / f"prepared{count}")

    prepare(FEW)  # imports
    assert measure_growth(prepare) < 0.2 * PIXELS
    meta = read_json(workspace / f"prepared{MANY}/meta.json")
    examples = np.load(workspace / f"prepared{MANY}/examples.npy")
    assert examples.shape == (MANY, meta["input"][0])

    learner = episodic.from_encoder(workspace / "small.safetensors")

    def adapt_and_predict(count: int) -> None:
        paths = sorted((workspace / f"own{count}").rglob("*.png"))
        adapted = learner.adapt(paths, [path.parent.name for path in paths])
        assert len(adapted.predict(paths)) == count

    adapt_and_predict(FEW)
    assert measure_growth(adapt_and_predict) < VECTOR + 0.2 * PIXELS
