"""Compute the cells of the method benchmark: an algorithm trained and tested in one setting.

    make benchmark                     all cells that are missing or outdated, and the table
    python -m benchmarks.methods.cell raw SETTING --out FOLDER                the dataset
    python -m benchmarks.methods.cell data SETTING --raw FOLDER --out FOLDER  test episodes
    python -m benchmarks.methods.cell train METHOD SETTING --data FOLDER --out FOLDER
    python -m benchmarks.methods.cell evaluate METHOD SETTING --data FOLDER --trained FOLDER
                                                              --out FOLDER

A setting is, for example, `5w1s` (5-way 1-shot Omniglot) or `cifar_fs-5w5s` (another dataset). The
parameters of a cell are the defaults, overridden by base.yaml, settings/SETTING.yaml and
methods/SETTING/METHOD.yaml in this folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks import params
from tasks.params import read_yaml
from tasks.runtime import stage
from tasks.runtime.files import ROOT, atomic_folder, read_json, write_json
from tasks.runtime.stage import StageError

FOLDER = ROOT / "benchmarks" / "methods"

DATASET = "omniglot"
"""Dataset of the settings that name none."""


def read_settings(setting: str | None = None, method: str | None = None) -> dict[str, Any]:
    """Return all of params.yaml for the dataset, for the episodes of a setting, or for a cell.

    Args:
        setting: Name of a setting; None for only the dataset.
        method: Name of an algorithm; None for only the episodes.

    Raises:
        StageError: The setting or the algorithm does not exist.
    """
    files = [FOLDER / "base.yaml"]
    if setting is not None:
        files.append(FOLDER / "settings" / f"{setting}.yaml")
    if method is not None:
        files.append(FOLDER / "methods" / str(setting) / f"{method}.yaml")
    values = merge_files(files)
    if method is not None:
        values["algorithm"]["name"] = method
    return values


def parse_setting(setting: str) -> tuple[str, int, int]:
    """Return dataset, ways and shots of a setting such as `5w1s` or `cifar_fs-5w5s`.

    Raises:
        StageError: It is not of this form.
    """
    match = re.fullmatch(r"(?:(\w+)-)?(\d+)w(\d+)s", setting)
    if match is None:
        raise StageError(f"{setting} is no setting; it must be such as 5w1s or cifar_fs-5w1s")
    return match[1] or DATASET, int(match[2]), int(match[3])


def merge_files(files: list[Path]) -> dict[str, Any]:
    """Return the defaults of all of params.yaml, overridden by some files in this order.

    Raises:
        StageError: A file does not exist.
    """
    for file in files:
        if not file.is_file():
            known = (
                ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml"))) or "none yet"
            )
            raise StageError(
                f"{file.relative_to(ROOT)} does not exist; the name must be one of {known}"
            )
    values = params.default_params()
    for file in files:
        params.merge_into(values, read_yaml(file) or {})
    return values


def load_settings(setting: str | None = None, method: str | None = None) -> params.Settings:
    return params.parse(
        read_settings(setting, method),
        f"method benchmark, {method} {setting}"
        if method
        else f"method benchmark, {setting or 'dataset'}",
    )


def download_data(settings: params.Settings, out: Path) -> None:
    """Write the dataset, as the stage `download` does."""
    from episodic.datasets.sources.fetch import MIRROR_VARIABLE
    from tasks import download

    mirror = os.environ.get(MIRROR_VARIABLE)
    download.run(settings, out, mirror=Path(mirror) if mirror else None)


def prepare_episodes(setting: str, downloaded: Path, out: Path) -> None:
    """Write the episodes of a setting, as the stage `episodes` does."""
    from tasks import episodes

    episodes.run(load_settings(setting), downloaded, out)


def train(settings: params.Settings, prepared: Path, out: Path) -> None:
    """Write `model`, `history` and `run.json`, as the stage `train` does, and `params.json`."""
    from tasks import train

    with atomic_folder(out) as draft:
        train.run(settings, prepared, draft / "model", draft / "history", draft / "run.json")
        write_json(draft / "params.json", settings.raw)


def evaluate(method: str, setting: str, prepared: Path, trained: Path, out: Path) -> None:
    """Write `episodes.csv`, `validation.csv` and `cell.json`.

    episodes.csv contains the accuracy of each test episode in both batch-norm modes, and
    validation.csv that of validation during training. cell.json describes training, testing and
    cost.
    """
    from tasks import evaluate

    settings = load_settings(setting, method)
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        folder = Path(name)
        evaluate.run(
            settings, prepared, trained / "model", folder / "scores", folder / "metrics.json"
        )
        metrics, scores = (
            read_json(folder / "metrics.json"),
            pd.read_parquet(folder / "scores" / "episodes.parquet"),
        )
    facts, config, meta = (
        read_json(path)
        for path in (
            trained / "run.json",
            trained / "model" / "config.json",
            prepared / "meta.json",
        )
    )
    table = (
        scores[scores["step"] == metrics["steps"]]
        .pivot(index="episode", columns="mode", values="accuracy")
        .reset_index()
    )
    training, episodes = settings.train, settings.episodes
    with atomic_folder(out) as draft:
        table.to_csv(draft / "episodes.csv", index=False)
        shutil.copyfile(trained / "history" / "validation.csv", draft / "validation.csv")
        write_json(
            draft / "cell.json",
            {
                "method": method,
                "setting": setting,
                "batch_norm": training.batch_norm,
                "steps": metrics["steps"],
                "ensemble": config["ensemble"],
                "queries": episodes.queries,
                "protocol": meta["protocol"],
                "data_digest": meta["data_digest"],
                "dataset": settings.raw["dataset"][settings.dataset.name],
                "model": config["model"],
                "iterations": training.iterations,
                "meta_batch": training.meta_batch,
                "best_iteration": config["iteration"],
                "train_ways": training.ways or episodes.ways,
                "train_shots": training.shots or episodes.shots,
                "train_queries": training.queries,
                "label_sd": metrics["labels"]["accuracy_sd"],
                **{
                    key: facts[key]
                    for key in (
                        "seconds",
                        "peak_memory_bytes",
                        "processes",
                        "device",
                        "gpu",
                        "processor",
                        "torch",
                    )
                },
            },
        )


Command = tuple[str, str, tuple[str, ...], tuple[str, ...]]
"""Name of a command, its help, its positional arguments and the folders that it reads."""


def parse_command(description: str | None, commands: Sequence[Command]) -> argparse.Namespace:
    """Parse the command line of the stages of a benchmark. All commands write a folder `--out`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, positional, folders in commands:
        command = subparsers.add_parser(name, help=text, description=text)
        for key in positional:
            command.add_argument(key)
        for key in (*folders, "out"):
            command.add_argument(f"--{key}", type=Path, required=True, metavar="FOLDER")
    return parser.parse_args()


def main() -> None:
    commands: tuple[Command, ...] = (
        ("raw", "download the dataset of a setting", ("setting",), ()),
        ("data", "prepare the episodes of a setting", ("setting",), ("raw",)),
        ("train", "train an algorithm in a setting", ("method", "setting"), ("data",)),
        ("evaluate", "test an algorithm in a setting", ("method", "setting"), ("data", "trained")),
    )
    args = parse_command(__doc__, commands)
    bodies = {
        "raw": lambda: download_data(load_settings(args.setting), args.out),
        "data": lambda: prepare_episodes(args.setting, args.raw, args.out),
        "train": lambda: train(load_settings(args.setting, args.method), args.data, args.out),
        "evaluate": lambda: evaluate(args.method, args.setting, args.data, args.trained, args.out),
    }
    stage.run(bodies[args.command])


if __name__ == "__main__":
    main()
