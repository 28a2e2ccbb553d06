"""What 8-bit integers cost and save in ONNX files: accuracy, size and latency.

    python -m benchmarks.int8 run                # a folder with data/prepared and models/run
    python -m benchmarks.int8 photographs FOLDER # one subfolder per class; EfficientNet-Lite0

Accuracy is compared on the same queries, with a paired 95 % interval over episodes. Latency is the
median time of one example on one thread of onnxruntime.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch

import episodic
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import ClassSampler
from episodic.inference.export import export_onnx
from episodic.preprocessing.base import read_class_folders
from episodic.preprocessing.image import EncodedImagePreprocessor
from tasks import prepared

WAYS, QUERIES = 5, 10
MAX_IMAGES = 24
"""Images of a class of photographs that are used."""


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_one_by_one(path: Path, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Compute the outputs of examples, and the median time of one in milliseconds."""
    session, seconds, outputs = open_session(path), [], []
    for i in range(len(x)):
        start = time.perf_counter()
        outputs.append(session.run(None, {"x": x[i : i + 1]})[0])
        seconds.append(time.perf_counter() - start)
    return np.concatenate(outputs), 1e3 * float(np.median(seconds))


def report(what: str, scores: list[np.ndarray], sizes: list[float], latencies: list[float]) -> None:
    """Print accuracy, size and latency in float32 and int8."""
    change, ci95 = mean_ci95(scores[1] - scores[0])
    for name, score, size, latency in zip(
        ("float32", "int8"), scores, sizes, latencies, strict=True
    ):
        print(f"{what}, {name}: {100 * score.mean():.1f} %, {size:.2f} MB, {latency:.1f} ms")
    print(
        f"{what}: int8 - float32 {100 * change:+.2f} ± {100 * ci95:.2f} ({len(scores[0])} episodes)"
    )


def measure_run(root: Path, episodes: int) -> None:
    """Measure the model of a run on its test episodes of 5 shots."""
    source = prepared.open_folder(root / "data/prepared", torch.device("cpu"))
    sized = source.at_size((source.meta["ways"], 5))
    learner = episodic.load(root / "models/run")
    batch = sized.build_episodes(sized.read_episodes("test")[:episodes])
    scores: list[list[float]] = [[], []]
    latencies: list[list[float]] = [[], []]
    sizes = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        for x, y, query, labels in zip(*batch.tensors, strict=True):
            adapted = learner.adapt(x.numpy(), y.tolist())
            for i, int8 in enumerate((False, True)):
                path = Path(folder) / "model.onnx"
                export_onnx(adapted, path, int8=int8)
                outputs, latency = run_one_by_one(path, query.numpy())
                scores[i].append(float((outputs.argmax(1) == labels.numpy()).mean()))
                sizes[i] = path.stat().st_size / 1e6
                latencies[i].append(latency)
    report(
        f"{sized.meta['dataset']}, {learner.config['algorithm']['name']}, 5 shots",
        [np.array(values) for values in scores],
        sizes,
        [float(np.median(values)) for values in latencies],
    )


def measure_photographs(folder: Path, episodes: int) -> None:
    """Measure the features of an image encoder by the nearest class mean, on random classes.

    The ranges of activations are estimated on images of the other classes.
    """
    learner = episodic.from_encoder("efficientnet_lite0")
    crops = cast(EncodedImagePreprocessor, learner.inputs).crops
    classes = list(read_class_folders(folder, crops).values())
    order = np.random.default_rng(0).permutation(len(classes))
    test = [classes[i][:MAX_IMAGES] for i in order[:12] if len(classes[i]) > 5 + QUERIES]
    others = crops([classes[i][0] for i in order[12:]])
    adapted = learner.adapt([images[0] for images in test[:2]], ["a", "b"])
    x = torch.cat([crops.unflatten(crops(images)) for images in test]).float() / 255
    features, sizes, latencies = [], [], []
    with tempfile.TemporaryDirectory() as place:
        for int8 in (False, True):
            path = Path(place) / "encoder.onnx"
            export_onnx(adapted, path, encoder=True, int8=int8, examples=others)
            found, latency = run_one_by_one(path, x.numpy())
            features.append(torch.nn.functional.normalize(torch.from_numpy(found), dim=-1))
            sizes.append(path.stat().st_size / 1e6)
            latencies.append(latency)
    counts = torch.tensor([len(images) for images in test])
    for shots in (1, 5):
        scores = []
        for values in features:
            offsets = counts.cumsum(0) - counts
            sampler = ClassSampler(values, offsets, counts, 0, "test", WAYS, shots, QUERIES)
            batch = sampler(torch.arange(episodes))
            means = batch.support_x.unflatten(1, (WAYS, shots)).mean(2)
            likeliest = (batch.query_x @ torch.nn.functional.normalize(means, dim=-1).mT).argmax(-1)
            scores.append((likeliest == batch.query_y).double().mean(1).numpy())
        report(f"{folder.name}, Lite0, {shots} shots", scores, sizes, latencies)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("run", "photographs"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--episodes", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.what == "run":
        measure_run(arguments.folder, arguments.episodes or 100)
    else:
        measure_photographs(arguments.folder, arguments.episodes or 600)


if __name__ == "__main__":
    main()
