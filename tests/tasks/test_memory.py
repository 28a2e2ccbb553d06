"""The memory of encoding photographs does not grow with their number, except for the vectors."""

from __future__ import annotations

import os
import resource
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import import_small_encoder
from PIL import Image
from stages import set_param, write_params

import episodic
from episodic.core.blocks import BLOCK
from episodic.preprocessing.encoders.lite0 import EfficientNetLite0
from tasks import download, episodes, params

CLASSES, FEW, MANY = 16, 2 * BLOCK, 5 * BLOCK
SIZE = 160
PIXELS = 3 * SIZE * SIZE
"""Bytes of one image as the encoder expects it."""

VECTOR = 4 * EfficientNetLite0.width
"""Bytes of the features of one image."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder of few and one of many images, and an encoder."""
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        import_small_encoder(folder / "small.safetensors", SIZE)
    for count in (FEW, MANY):
        for row in range(count):
            path = folder / f"own{count}/class{row % CLASSES:02d}/{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = row % 256, row // 256, count // BLOCK  # different images: none is in the cache
            Image.new("RGB", (8, 8), colour).save(path)
    changes = {"image_folder.path": str(folder / "small.safetensors"), "episodes.ways": "3"}
    write_params(folder, "own_photos", folder / f"own{FEW}", **changes)
    return folder


@pytest.mark.parametrize("name", ["prepare", "adapt_and_predict"])
def test_memory_is_flat_in_the_number_of_images(workspace, name):
    growths = []
    for _ in range(3):  # the median, since the peak depends on when the allocator returns memory
        # A process that this one started would begin with the peak memory of this one.
        with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
            growths.append(pool.submit(measure_growth, globals()[name], workspace).result())
    assert statistics.median(growths) < VECTOR + 0.5 * PIXELS


def measure_growth(run: Callable[[Path, int], None], folder: Path) -> float:
    """Compute how much the peak memory of this process grows per image, in bytes.

    The network is replaced by a fast one.
    """
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    EfficientNetLite0.prepare_inference = lambda self: compute_mean_colours
    peaks = []
    for count in (FEW, FEW, MANY):  # the first run reserves memory that the others use again
        run(folder, count)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    unit = 1 if sys.platform == "darwin" else 1024
    return (peaks[2] - peaks[1]) * unit / (MANY - FEW)


def compute_mean_colours(x: torch.Tensor) -> torch.Tensor:
    """Compute the mean colours of images `(n, 3, H, W)` and pad them to the width of Lite0."""
    return torch.nn.functional.pad(x.mean((2, 3)), (0, EfficientNetLite0.width - 3), value=1.0)


def prepare(folder: Path, count: int) -> None:
    """Run the stages download and episodes."""
    set_param(folder, "dataset.source", str(folder / f"own{count}"))
    settings = params.load(folder / "params.yaml", "dataset", "episodes")
    download.run(settings, folder / f"raw{count}")
    episodes.run(settings, folder / f"raw{count}", folder / f"prepared{count}")
    examples = np.load(folder / f"prepared{count}/examples.npy", mmap_mode="r")
    assert examples.shape == (count, EfficientNetLite0.width)


def adapt_and_predict(folder: Path, count: int) -> None:
    """Adapt to all images, and predict all of them."""
    paths = sorted((folder / f"own{count}").rglob("*.png"))
    learner = episodic.from_encoder(folder / "small.safetensors")
    adapted = learner.adapt(paths, [path.parent.name for path in paths])
    assert len(adapted.predict(paths)) == count
