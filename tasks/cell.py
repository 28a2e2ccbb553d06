"""The papers' table, cell by cell: every method trained and tested on the same episodes, at a budget that is stated.

    make table                                            all of it and the table (tasks/table.py); what is done stays done (table/dvc.yaml)
    python -m tasks.cell raw                              the data set
    python -m tasks.cell data SETTING                     the episodes of a setting, as `5w1s`
    python -m tasks.cell run METHOD SETTING               one cell: train, evaluate, keep the accuracy of each episode

A cell's parameters are the defaults, then table/base.yaml, table/settings/SETTING.yaml, table/methods/METHOD.yaml and, where there is one,
table/methods/METHOD-SETTING.yaml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from tasks import preset, stage
from tasks.files import ROOT, folder_beside, read_json, write_json
from tasks.params import read_yaml
from tasks.stage import StageError

FOLDER = ROOT / "table"


def parameters(setting: str | None = None, method: str | None = None) -> dict[str, Any]:
    """The whole of params.yaml for the data set, for the episodes of a setting, or for a cell."""
    files = [FOLDER / "base.yaml"]
    if setting is not None:
        files.append(FOLDER / "settings" / f"{setting}.yaml")
    if method is not None:
        files.append(FOLDER / "methods" / f"{method}.yaml")
    for file in files:
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
            raise StageError(f"there is no {file.relative_to(ROOT)}: must be one of {known}")
    own = FOLDER / "methods" / f"{method}-{setting}.yaml"
    files += [own] if own.is_file() else []
    wanted = preset.defaults()
    for file in files:
        preset.merge(wanted, read_yaml(file))
    if method is not None:
        wanted["algorithm"]["name"] = method
    return wanted


def raw(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
        write_json(Path(folder) / "params.yaml", parameters())  # JSON is YAML
        _stage("download", params=Path(folder) / "params.yaml", out=out)


def data(setting: str, downloaded: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
        write_json(Path(folder) / "params.yaml", parameters(setting))
        _stage("episodes", params=Path(folder) / "params.yaml", raw=downloaded, out=out)


def cell(method: str, setting: str, prepared: Path, out: Path) -> None:
    """Writes `episodes.csv` (accuracy of each test episode, in both modes) and `cell.json` (what it took)."""
    wanted = parameters(setting, method)
    with tempfile.TemporaryDirectory(prefix="episodic-") as name:
        folder = Path(name)
        write_json(folder / "params.yaml", wanted)
        shared = {"params": folder / "params.yaml", "data": prepared, "model": folder / "model"}
        _stage("train", **shared, history=folder / "history", run_json=folder / "run.json")
        _stage("evaluate", **shared, scores=folder / "scores", metrics=folder / "metrics.json")
        facts, metrics = read_json(folder / "run.json"), read_json(folder / "metrics.json")
        scores = pd.read_parquet(folder / "scores" / "episodes.parquet")
    mode, steps = wanted["train"]["batch_norm"], metrics["steps"]
    table = scores[scores["step"] == steps].pivot(index="episode", columns="mode", values="accuracy").reset_index()
    with folder_beside(out) as draft:
        table.to_csv(draft / "episodes.csv", index=False)
        write_json(
            draft / "cell.json",
            {
                "method": method, "setting": setting, "batch_norm": mode, "steps": steps, "iterations": wanted["train"]["iterations"],
                "meta_batch": wanted["train"]["meta_batch"], "ensemble": metrics["ensemble"],
                "label_sd": metrics["labels"]["accuracy_sd"],
                **{key: facts[key] for key in ("seconds", "peak_memory_bytes", "processes", "device", "gpu", "processor", "torch")},
            },
        )  # fmt: skip


def _stage(name: str, **paths: Path) -> None:
    options = [word for key, path in paths.items() for word in (f"--{key.replace('_', '-')}", str(path))]
    ended = subprocess.run([sys.executable, "-m", f"tasks.{name}", *options], cwd=ROOT)
    if ended.returncode:
        raise StageError(f"the stage {name} ended with exit code {ended.returncode}; what it said stands above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    part = parts.add_parser("raw", help="the data set")
    part.add_argument("--out", type=Path, required=True)
    part = parts.add_parser("data", help="the episodes of a setting")
    part.add_argument("setting")
    part.add_argument("--raw", type=Path, required=True)
    part.add_argument("--out", type=Path, required=True)
    part = parts.add_parser("run", help="train and evaluate one method in one setting")
    part.add_argument("method")
    part.add_argument("setting")
    part.add_argument("--data", type=Path, required=True)
    part.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    works = {
        "raw": lambda: raw(args.out),
        "data": lambda: data(args.setting, args.raw, args.out),
        "run": lambda: cell(args.method, args.setting, args.data, args.out),
    }
    stage.run(works[args.part])


if __name__ == "__main__":
    main()
