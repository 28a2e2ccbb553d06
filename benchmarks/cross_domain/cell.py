"""Compute the cells of the matrix: a learner trained on one dataset and tested on another.

    make cross-domain                 all cells that are missing or outdated, and the table
    python -m benchmarks.cross_domain.cell raw DATASET --out FOLDER
    python -m benchmarks.cross_domain.cell data SETTING DATASET --raw FOLDER --out FOLDER
    python -m benchmarks.cross_domain.cell train SETTING SOURCE INPUT METHOD --data FOLDER
                                                 --out FOLDER
    python -m benchmarks.cross_domain.cell score SETTING SOURCE TARGET --data FOLDER
                                                 --trained FOLDER --out FOLDER

matrix.yaml lists datasets, settings and learners. A learner is a method on an input. The parameters
of a run are the defaults, overridden by base.yaml, inputs/INPUT.yaml and methods/INPUT/METHOD.yaml
in this folder. The key `dataset.features` in these files applies to every dataset, and `subset` of
an input bounds its classes and examples.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.methods import cell
from episodic.datasets.base import Images
from episodic.training.evaluation import adaptation_curve
from tasks import params, prepared
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.params import read_yaml
from tasks.runtime import distributed, stage
from tasks.runtime.files import ROOT, atomic_folder, read_json, write_json
from tasks.runtime.stage import StageError

FOLDER = ROOT / "benchmarks" / "cross_domain"

SHARED = "all"
"""Name of the raw data that does not depend on the input."""


def read_matrix() -> dict[str, Any]:
    """Return the content of matrix.yaml.

    Raises:
        StageError: A name is repeated.
    """
    matrix: dict[str, Any] = read_yaml(FOLDER / "matrix.yaml")
    names = [dataset["name"] for dataset in matrix["datasets"]]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(
            f"matrix.yaml has several datasets with the name {repeated[0]}: choose other names"
        )
    return matrix


def list_inputs() -> list[str]:
    """Return the inputs of all learners, in the order of matrix.yaml."""
    return list(dict.fromkeys(learner["input"] for learner in read_matrix()["learners"]))


def name_learner(learner: dict[str, str]) -> str:
    """Return the name of a learner, such as `pixels-protonet`."""
    return f"{learner['input']}-{learner['method']}"


def load_settings(
    dataset: str, input: str, setting: str | None = None, method: str | None = None
) -> params.Settings:
    """Return the parameters of a dataset, of its episodes, or of training on it.

    Args:
        dataset: Name of a dataset of matrix.yaml.
        input: Name of an input.
        setting: Ways and shots, such as `5w1s`; None for only the dataset.
        method: Name of an algorithm; None for only the episodes.

    Raises:
        StageError: A name is unknown, or the parameters have errors.
    """
    files = [FOLDER / "base.yaml", FOLDER / "inputs" / f"{input}.yaml"]
    if method is not None:
        files.append(FOLDER / "methods" / input / f"{method}.yaml")
    values = cell.merge_files(files)
    values.pop("subset", None)
    features = values["dataset"].pop("features", {})
    entry = _find_dataset(dataset)
    values["dataset"] |= {"name": entry["dataset"], "source": str(FOLDER / entry["source"])}
    section = values["dataset"].get(entry["dataset"])
    if section is not None and "features" not in section:
        raise StageError(
            f"matrix.yaml has the dataset {entry['dataset']} as {dataset}; it must be one of images"
        )
    if section is not None:
        section["features"] |= features
    if setting is not None:
        values["episodes"] |= dict(zip(("ways", "shots"), parse_setting(setting), strict=True))
    if method is not None:
        values["algorithm"]["name"] = method
    sections = params.SECTIONS if method is not None else ("dataset", "episodes")
    words = filter(None, [dataset, setting, input, method])
    return params.parse(values, f"cross-domain, {' '.join(words)}", sections)


def _find_dataset(name: str) -> dict[str, str]:
    entries = {entry["name"]: entry for entry in read_matrix()["datasets"]}
    if name not in entries:
        raise StageError(f"matrix.yaml has no dataset {name}; it has {', '.join(entries)}")
    return entries[name]


def parse_setting(setting: str) -> tuple[int, int]:
    """Return ways and shots of a setting such as `5w1s`.

    Raises:
        StageError: It is not of this form.
    """
    match = re.fullmatch(r"(\d+)w(\d+)s", setting)
    if match is None:
        raise StageError(
            f"matrix.yaml has the setting {setting}; it must be ways and shots, such as 5w1s"
        )
    return int(match[1]), int(match[2])


def _raw_folder(dataset: str, input: str) -> str:
    """Return the name of the raw data. User-provided images are decoded for their input."""
    policy = load_settings(dataset, input).dataset.config.source_policy
    return SHARED if policy == "unused" else input


def download_data(dataset: str, out: Path) -> None:
    """Write the raw data of a dataset, as the stage `download` does, for each input."""
    with atomic_folder(out) as draft:
        for input in list_inputs():
            folder = draft / _raw_folder(dataset, input)
            if not folder.exists():
                cell.download_data(load_settings(dataset, input), folder)


def prepare_episodes(setting: str, dataset: str, raw: Path, out: Path) -> None:
    """Write the examples and the episodes for each input, as the stage `episodes` does."""
    from tasks import episodes

    with atomic_folder(out) as draft:
        for input in list_inputs():
            settings = load_settings(dataset, input, setting)
            chosen = settings.dataset
            data = chosen.config.prepare(raw / _raw_folder(dataset, input), chosen.seed)
            subset = read_yaml(FOLDER / "inputs" / f"{input}.yaml").get("subset")
            if subset is not None:
                data = take_subset(data, subset["classes"], subset["examples"], chosen.seed)
            episodes.write(settings, data, draft / input)


def take_subset(data: Images, classes: dict[str, int], examples: int, seed: int) -> Images:
    """Return some of the classes of a dataset, drawn at random, with their first examples.

    Args:
        data: The dataset.
        classes: Maximum number of classes by split.
        examples: Maximum number of examples per class.
        seed: Seed of the classes.
    """
    order = sorted(
        range(len(data.classes)),
        key=lambda i: hashlib.sha256(f"{seed}/subset/{data.classes[i]}".encode()).digest(),
    )
    kept = sorted(
        i
        for split, count in classes.items()
        for i in [j for j in order if data.splits[j] == split][:count]
    )
    first = data.counts.cumsum() - data.counts
    counts = np.minimum(data.counts[kept], examples)
    rows = [np.arange(first[i], first[i] + count) for i, count in zip(kept, counts, strict=True)]
    return replace(
        data,
        images=data.images[np.concatenate(rows)],
        classes=[data.classes[i] for i in kept],
        groups=[data.groups[i] for i in kept],
        splits=[data.splits[i] for i in kept],
        counts=counts,
        protocol=f"{data.protocol}, subset of classes and examples",
    )


def score(setting: str, source: str, target: str, data: Path, trained: Path, out: Path) -> None:
    """Test all learners that were trained on `source` on the test episodes of `target`.

    Writes `episodes.csv`, the accuracy of each learner on each episode, and `cell.json`, which
    describes the episodes and the learners.

    Args:
        setting: Ways and shots.
        source: Name of the dataset of training.
        target: Name of the dataset of the test.
        data: Folder of the episodes of the target, with one folder per input.
        trained: Folder of the models of the source.
        out: The folder to write.

    Raises:
        StageError: A model does not fit the examples of the target.
    """
    columns: dict[str, np.ndarray] = {}
    learners: dict[str, dict[str, Any]] = {}
    inputs: dict[str, dict[str, Any]] = {}
    for learner in read_matrix()["learners"]:
        name = name_learner(learner)
        settings = load_settings(source, learner["input"], setting, learner["method"])
        device = distributed.prepare_device(settings.device)
        folder = prepared.open_folder(data / learner["input"], device)
        evaluation = EvaluationSetup.load(settings.evaluate, folder, trained / name / "model")
        columns[name] = _score_episodes(evaluation)
        keys = ("protocol", "classes", "queries", "data_digest")
        inputs[learner["input"]] = {key: folder.meta[key] for key in keys}
        facts, config = read_json(trained / name / "run.json"), evaluation.trained.config
        learners[name] = {
            "input": learner["input"],
            "method": learner["method"],
            "batch_norm": config["batch_norm"]
            if evaluation.trained.learner.model.norm_names
            else None,
            "steps": evaluation.steps,
            "iterations": config["iterations"],
            "seconds": facts["seconds"],
        }
    with atomic_folder(out) as draft:
        table = pd.DataFrame(columns).rename_axis("episode").reset_index()
        table.to_csv(draft / "episodes.csv", index=False, float_format="%.6g")
        facts = {
            "setting": setting,
            "source": source,
            "target": target,
            "inputs": inputs,
            "learners": learners,
        }
        write_json(draft / "cell.json", facts)


def _score_episodes(evaluation: EvaluationSetup) -> np.ndarray:
    """Return the accuracy of each test episode, in the batch-norm mode of training."""
    learner, members = evaluation.trained.learner, evaluation.trained.members
    scores = []
    for rows in evaluation.chunks:
        episode = evaluation.load_episodes(rows)
        curve = adaptation_curve(
            learner, members, episode, [evaluation.steps], [learner.batch_norm]
        )
        scores.append(curve.score[learner.batch_norm][:, 0].cpu().double().numpy())
    return np.concatenate(scores)


def main() -> None:
    commands: tuple[cell.Command, ...] = (
        ("raw", "download a dataset", ("dataset",), ()),
        ("data", "prepare the episodes of a dataset", ("setting", "dataset"), ("raw",)),
        (
            "train",
            "train a learner on a dataset",
            ("setting", "source", "input", "method"),
            ("data",),
        ),
        (
            "score",
            "test the learners of a dataset on another",
            ("setting", "source", "target"),
            ("data", "trained"),
        ),
    )
    args = cell.parse_command(__doc__, commands)
    bodies = {
        "raw": lambda: download_data(args.dataset, args.out),
        "data": lambda: prepare_episodes(args.setting, args.dataset, args.raw, args.out),
        "train": lambda: cell.train(
            load_settings(args.source, args.input, args.setting, args.method),
            args.data / args.input,
            args.out,
        ),
        "score": lambda: score(
            args.setting, args.source, args.target, args.data, args.trained, args.out
        ),
    }
    stage.run(bodies[args.command])


if __name__ == "__main__":
    main()
