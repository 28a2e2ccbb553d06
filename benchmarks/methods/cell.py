"""The papers' table, cell by cell: every method trained and tested on the same episodes, at a budget that is stated.

    make table                                                          all of it and the table; what is done stays done (benchmarks/methods/dvc.yaml)
    python -m benchmarks.methods.cell raw --out FOLDER                               the data set
    python -m benchmarks.methods.cell data SETTING --raw FOLDER --out FOLDER         the episodes of a setting, as `5w1s`
    python -m benchmarks.methods.cell train METHOD SETTING --data FOLDER --out FOLDER
    python -m benchmarks.methods.cell evaluate METHOD SETTING --data FOLDER --trained FOLDER --out FOLDER

A cell's parameters are the defaults, then benchmarks/methods/base.yaml, benchmarks/methods/settings/SETTING.yaml and benchmarks/methods/methods/SETTING/METHOD.yaml.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from tasks import params, preset
from tasks.params import read_yaml
from tasks.runtime import stage
from tasks.runtime.files import ROOT, atomic_folder, read_json, write_json
from tasks.runtime.stage import StageError

FOLDER = ROOT / "benchmarks" / "methods"


def parameters(setting: str | None = None, method: str | None = None) -> dict[str, Any]:
    """The whole of params.yaml for the data set, for the episodes of a setting, or for a cell."""
    files = [FOLDER / "base.yaml"]
    if setting is not None:
        files.append(FOLDER / "settings" / f"{setting}.yaml")
    if method is not None:
        files.append(FOLDER / "methods" / str(setting) / f"{method}.yaml")
    for file in files:
        if not file.is_file():
            known = (
                ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml"))) or "none yet"
            )
            raise StageError(
                f"there is no {file.relative_to(ROOT)}: must be one of {known}"
            )
    wanted = preset.defaults()
    for file in files:
        preset.merge(wanted, read_yaml(file) or {})
    if method is not None:
        wanted["algorithm"]["name"] = method
    return wanted


def settings(setting: str | None = None, method: str | None = None) -> params.Params:
    return params.parse(
        parameters(setting, method),
        f"table, {method} {setting}" if method else f"table, {setting or 'data set'}",
    )


def raw(out: Path) -> None:
    from episodic.datasets.sources.fetch import MIRROR
    from tasks import download

    download.run(
        settings(), out, mirror=Path(os.environ[MIRROR]) if os.environ.get(MIRROR) else None
    )


def data(setting: str, downloaded: Path, out: Path) -> None:
    from tasks import episodes

    episodes.run(settings(setting), downloaded, out)


def train(method: str, setting: str, prepared: Path, out: Path) -> None:
    """Writes `model`, `history` and `run.json` as the stage of that name does, and `params.json`."""
    from tasks import train

    wanted = settings(setting, method)
    with atomic_folder(out) as draft:
        train.run(wanted, prepared, draft / "model", draft / "history", draft / "run.json")
        write_json(draft / "params.json", wanted.raw)


def evaluate(method: str, setting: str, prepared: Path, trained: Path, out: Path) -> None:
    """Writes `episodes.csv` (accuracy of each test episode, in both modes) and `cell.json` (how it was trained and what it took)."""
    from tasks import evaluate

    wanted = settings(setting, method)
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        folder = Path(name)
        evaluate.run(
            wanted, prepared, trained / "model", folder / "scores", folder / "metrics.json"
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
    chosen, episodes = wanted.train, wanted.episodes
    with atomic_folder(out) as draft:
        table.to_csv(draft / "episodes.csv", index=False)
        write_json(
            draft / "cell.json",
            {
                "method": method,
                "setting": setting,
                "batch_norm": chosen.batch_norm,
                "steps": metrics["steps"],
                "ensemble": config["ensemble"],
                "queries": episodes.queries,
                "protocol": meta["protocol"],
                "data_digest": meta["data_digest"],
                "dataset": wanted.raw["dataset"][wanted.dataset.name],
                "model": config["model"],
                "iterations": chosen.iterations,
                "meta_batch": chosen.meta_batch,
                "best_iteration": config["iteration"],
                "train_ways": chosen.ways or episodes.ways,
                "train_shots": chosen.shots or episodes.shots,
                "train_queries": chosen.queries,
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    words: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("raw", "the data set", (), ()),
        ("data", "the episodes of a setting", ("setting",), ("raw",)),
        ("train", "train one method in one setting", ("method", "setting"), ("data",)),
        ("evaluate", "test it", ("method", "setting"), ("data", "trained")),
    )
    for name, what, positional, folders in words:
        part = parts.add_parser(name, help=what)
        for key in positional:
            part.add_argument(key)
        for key in (*folders, "out"):
            part.add_argument(f"--{key}", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    works = {
        "raw": lambda: raw(args.out),
        "data": lambda: data(args.setting, args.raw, args.out),
        "train": lambda: train(args.method, args.setting, args.data, args.out),
        "evaluate": lambda: evaluate(args.method, args.setting, args.data, args.trained, args.out),
    }
    stage.run(works[args.part])


if __name__ == "__main__":
    main()
