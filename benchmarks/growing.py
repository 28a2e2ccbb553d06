"""Seconds that adding a class of five examples to an adapted model takes, by algorithm and head.

    OMP_NUM_THREADS=1 python -m benchmarks.growing

The model has 20 classes of five examples, loaded from its folder. Drawings are glyphs, for an
untrained conv4 with 64 filters. Photographs are noise of 640 x 480 pixels, for EfficientNet-Lite0;
the time includes reading and encoding the five new ones. Times are medians of three repetitions.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import episodic
from episodic.core.registry import ALGORITHMS
from episodic.datasets.glyphs import draw_alphabet
from episodic.inference.heads import HEADS, PARTIAL_FINETUNE
from episodic.training import model_folder

CLASSES, SHOTS, REPETITIONS = 20, 5, 3
METHODS: dict[str, dict[str, Any]] = {
    "protonet": {},
    "matching_net": {},
    "meta_baseline": {},
    "simpleshot": {},
    "bd_cspn": {},
    "laplacian_shot": {},
    "tim": {},
    "feat": {},
    "ridge": {},
    "metaoptnet": {},
    "logistic": {"regularization": 0.1},
    "finetune": {},
}
"""The algorithms and their settings: those that adapt to any number of classes."""

LEFT_OUT = (PARTIAL_FINETUNE, "metaoptnet")
"""Heads that take minutes: one fine-tunes the encoder, one solves hundreds of quadratic programs to
choose its regularization."""


def draw_photographs(count: int) -> list[bytes]:
    """Return photographs of noise as JPEG files."""
    generator = np.random.default_rng(0)
    photographs = []
    for _ in range(count):
        stream = io.BytesIO()
        pixels = generator.integers(0, 256, (480, 640, 3), np.uint8)
        Image.fromarray(pixels).save(stream, "jpeg")
        photographs.append(stream.getvalue())
    return photographs


def list_learners(folder: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each learner, the learner, and examples of CLASSES + 1 classes."""
    alphabets = torch.cat([torch.from_numpy(draw_alphabet(i)) for i in range(4)])
    drawings = list(alphabets[: CLASSES + 1, :SHOTS].flatten(0, 1)[:, None].numpy())
    for name, settings in METHODS.items():
        config = {
            "algorithm": {"name": name} | asdict(ALGORITHMS[name](**settings)),
            "model": {"name": "conv4", "filters": 64},
            "batch_norm": "inductive",
            "input": [1, 28, 28],
            "inputs": {"kind": "image"},
            "kind": "classification",
            "ways": CLASSES,
            "shots": SHOTS,
            "classes": 64,
        }
        model_folder.save(folder / name, [model_folder.build_learner(config).init(0)], config)
        yield f"conv4, {name}", episodic.load(folder / name), drawings
    photographs = draw_photographs((CLASSES + 1) * SHOTS)
    for head in HEADS:
        if head not in LEFT_OUT:
            yield f"Lite0, {head}", episodic.from_encoder("efficientnet_lite0", head), photographs


def main() -> None:
    """Print the table."""
    old = CLASSES * SHOTS
    labels = [f"class {i // SHOTS:02}" for i in range(old)]
    print("| model | seconds |\n|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, learner, examples in list_learners(Path(temporary)):
            learner.adapt(examples[:old], labels).save(Path(temporary) / "adapted")
            seconds = []
            for _ in range(REPETITIONS):
                adapted = episodic.load_adapted(Path(temporary) / "adapted")
                _ = getattr(adapted.inputs, "encoder", None)  # loaded before
                start = time.perf_counter()
                adapted.add(examples[old:], "new class")
                seconds.append(time.perf_counter() - start)
            print(f"| {name} | {statistics.median(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
