"""Datasets of the benchmark: a few-shot learner, and examples of classes it was not trained on.

Everything is computed once and kept in a folder. Omniglot and CLINC150 have a model that is trained
here; Grocery has a pretrained encoder.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.algorithms.meta_baseline import MetaBaseline
from episodic.algorithms.protonet import ProtoNet
from episodic.core.model import ModelSpec
from episodic.core.objective import Objective
from episodic.data.sampling import ClassSampler
from episodic.data.storage import Examples
from episodic.datasets.base import ClassificationDataset, Images, Texts
from episodic.datasets.clinc150 import Clinc150
from episodic.datasets.image_folder import ImageFolder
from episodic.datasets.omniglot import Omniglot
from episodic.engine.learner import MetaLearner
from episodic.inference import few_shot, pretrained
from episodic.inference.few_shot import FewShotLearner
from episodic.models.bag import BagOfFeatures
from episodic.models.conv4 import Conv4
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.encoders.features import ImageFeatures
from episodic.training import model_folder
from episodic.training.config import TrainingConfig
from episodic.training.loop import train

__all__ = ["DATASETS", "BenchmarkData", "open_dataset"]

VALIDATION_EPISODES = 200


@dataclass(frozen=True)
class BenchmarkData:
    """The classes of one split, and the learner that adapts to them.

    Args:
        learner: The learner.
        examples: Preprocessed examples, class after class.
        counts: Examples per class, int64 `(classes,)`.
    """

    learner: FewShotLearner
    examples: Examples
    counts: Tensor

    def read(self, rows: Tensor) -> Tensor:
        """Return the preprocessed examples of these rows."""
        x = self.examples[rows]
        return x.float() / 255 if x.dtype == torch.uint8 else x

    def embed(self, pool: Tensor, test: Tensor) -> tuple[FewShotLearner, Tensor, Tensor]:
        """Compute the features of a session once, and return them with a learner on features.

        Batch norm uses the statistics of the pool, also after adaptation. Features with more
        dimensions than there are examples are rotated into the space that they span, which changes
        neither distances nor cosines.
        """
        if "head" in self.learner.config:  # the examples are features already
            return self.learner, pool, test
        features = self.learner.embed(torch.cat([pool, test]))[0].double()
        if features.shape[1] > len(features):
            features = torch.linalg.qr(features.mT)[1].mT
        features = features.float()
        config = self.learner.config | {
            "model": {"name": "mlp", "hidden": []},
            "input": [features.shape[1]],
            "inputs": {"kind": "numbers"},
        }
        learner = model_folder.build_learner(config)
        trained = self.learner.trained.members[0]
        members = [{name: trained[name] for name in learner.init(0)}]
        inputs = preprocessing.build(config)
        head = FewShotLearner(
            model_folder.TrainedModel(learner, members, config), inputs, self.learner.device
        )
        return head, features[: len(pool)], features[len(pool) :]


def open_dataset(name: str, split: str, folder: Path, mirror: Path | None) -> BenchmarkData:
    """Prepare a dataset, or read it if it was prepared before.

    Args:
        name: One of `DATASETS`.
        split: `validation` or `test`.
        folder: Where models and prepared data are kept.
        mirror: A folder to look into before the official addresses.
    """
    return DATASETS[name](split, folder / name, mirror)


def _open_omniglot(split: str, folder: Path, mirror: Path | None) -> BenchmarkData:
    data = _prepare(Omniglot(), folder, None, mirror)
    # As users do, the model normalizes queries by the statistics of the support set.
    config = TrainingConfig(
        iterations=1000,
        meta_batch=4,
        queries=5,
        ways=30,
        validate_every=250,
        batch_norm="inductive",
    )
    return _open_trained(
        data, torch.from_numpy(data.images), Conv4(), ProtoNet(), config, split, folder
    )


def _open_clinc150(split: str, folder: Path, mirror: Path | None) -> BenchmarkData:
    data = _prepare(Clinc150(), folder, None, mirror)
    # The preset clinc150 with cosine similarities: the distances of ProtoNet favour classes with
    # more examples than others, so that unequal numbers of labels would lower its accuracy.
    config = TrainingConfig(
        iterations=200, meta_batch=4, ways=60, queries=3, meta_lr=0.001, validate_every=50
    )
    return _open_trained(
        data, data.encode(), BagOfFeatures(512), MetaBaseline(), config, split, folder
    )


def _open_grocery(split: str, folder: Path, mirror: Path | None) -> BenchmarkData:
    if not (folder / "source").is_dir():
        if mirror is None:
            raise SystemExit("Grocery needs EPISODIC_MIRROR with grocery/grocery.zip")
        _unpack_grocery(mirror / "grocery/grocery.zip", folder / "source")
    features = ImageFeatures("encoder", "efficientnet_lite0")
    dataset = ImageFolder(features=features, split_fractions=(0.6, 0.19, 0.21))
    data = _prepare(dataset, folder, folder / "source", mirror)
    path = folder / "features.npy"
    if not path.exists():
        np.save(path, np.asarray(data.encode()))
    examples = torch.from_numpy(np.load(path))
    rows, counts, _ = _select_split(data, split)
    return BenchmarkData(pretrained.from_encoder(), examples[rows], counts)


DATASETS: dict[str, Callable[[str, Path, Path | None], BenchmarkData]] = {
    "omniglot": _open_omniglot,
    "clinc150": _open_clinc150,
    "grocery": _open_grocery,
}
"""Functions `(split, folder, mirror)` by the name of the dataset."""


def _prepare(
    dataset: ClassificationDataset, folder: Path, source: Path | None, mirror: Path | None
) -> Any:
    raw = folder / "raw"
    if not raw.exists():
        raw.mkdir(parents=True)
        dataset.fetch(raw, source=source, mirror=mirror)
    return dataset.prepare(raw, 0)


def _unpack_grocery(archive: Path, folder: Path) -> None:
    """Unpack `KIND/CLASS/NAME.jpg` to `CLASS/NAME.jpg`."""
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name.endswith(".jpg"):
                path = folder / Path(name).parent.name / Path(name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(name))


def _select_split(data: Images | Texts, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of a split, its examples per class, and the first row of each class."""
    counts = torch.from_numpy(data.counts)
    offsets = counts.cumsum(0) - counts
    chosen = torch.tensor([i for i, name in enumerate(data.splits) if name == split])
    rows = torch.cat([torch.arange(int(offsets[c]), int(offsets[c] + counts[c])) for c in chosen])
    return rows, counts[chosen], offsets[chosen]


def _open_trained(
    data: Images | Texts,
    examples: Examples,
    spec: ModelSpec,
    algorithm: ProtoNet | MetaBaseline,
    config: TrainingConfig,
    split: str,
    folder: Path,
) -> BenchmarkData:
    if not (folder / "model").exists():
        _train(data, examples, spec, algorithm, config, folder / "model")
    rows, counts, _ = _select_split(data, split)
    return BenchmarkData(few_shot.load(folder / "model"), examples[rows], counts)


def _train(
    data: Images | Texts,
    examples: Examples,
    spec: ModelSpec,
    algorithm: ProtoNet | MetaBaseline,
    config: TrainingConfig,
    folder: Path,
) -> None:
    learner = MetaLearner(
        spec.build(data.input, 0), algorithm, Objective("classification"), config.batch_norm
    )

    def sample(split: str, ways: int, queries: int) -> ClassSampler:
        _, counts, offsets = _select_split(data, split)
        return ClassSampler(examples, offsets, counts, 0, split, ways, 1, queries)

    episodes = sample("validation", 5, 5)(torch.arange(VALIDATION_EPISODES))
    training = sample("train", int(str(config.ways)), config.queries)
    result = train(
        learner, training, episodes, config, on_progress=lambda i, m: print(i, m, end="\r")
    )
    print(f"{folder}: validation accuracy {result.score:.3f}")
    names = {
        Conv4: "conv4",
        BagOfFeatures: "bag",
        ProtoNet: "protonet",
        MetaBaseline: "meta_baseline",
    }
    description = {
        "model": {"name": names[type(spec)]} | asdict(spec),
        "algorithm": {"name": names[type(algorithm)]} | asdict(algorithm),
        "batch_norm": config.batch_norm,
        "input": list(data.input),
        "inputs": data.inputs,
        "kind": "classification",
        "ways": 5,
        "shots": 1,
        "classes": len(data.classes),
        "dataset": folder.parent.name,
        "iteration": result.iteration,
        "iterations": result.iterations,
        "validation": result.score,
    }
    folder.mkdir(parents=True)
    model_folder.save(folder, result.members, description)
