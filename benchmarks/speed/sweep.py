"""Overhead of a sweep, measured with trivial stages.

    python -m benchmarks.speed.sweep [--experiments 200] [--at-once 2] [--out benchmarks/results]

Prints seconds per experiment, lock errors and the resident memory of the process of the sweep.
--out also writes sweep.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from benchmarks.speed.table import parse_folder, parse_positive, write
from tasks.runtime.files import ROOT

STAGE = """
import json, re, sys
name, out = sys.argv[1:]
seed = int(re.search(r"seed: ([0-9]+)", open("params.yaml").read())[1])
json.dump({"accuracy": 1 / (2 + seed % 7), "stage": name}, open(out, "w"))
"""
STAGES = ["download", "episodes", "train", "evaluate", "report"]


def create_repository(folder: Path) -> None:
    """Create a repository with five sequential stages. The last three depend on the seed."""
    stages: dict[str, dict[str, object]] = {}
    for position, name in enumerate(STAGES):
        out = "reports/metrics.json" if name == "evaluate" else f"{name}.json"
        stages[name] = {"cmd": f"{sys.executable} stage.py {name} {out}", "deps": ["stage.py"]}
        if position:
            before = STAGES[position - 1]
            stages[name]["deps"] = [
                "stage.py",
                "reports/metrics.json" if before == "evaluate" else f"{before}.json",
            ]
        if name == "train":
            stages[name]["params"] = ["train.seed"]
        stages[name] |= (
            {"metrics": [{out: {"cache": False}}]} if name == "evaluate" else {"outs": [out]}
        )
    (folder / "reports").mkdir()
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (folder / "params.yaml").write_text("train:\n  seed: 0\n")
    (folder / ".gitignore").write_text(".prefect/\n/sweep.yaml\n/output\n")
    (folder / "reports" / "keep").touch()
    author_options = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    for args in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", *author_options, "commit", "-qm", "a"],
    ):
        subprocess.run(args, cwd=folder, check=True)


def measure(experiments: int, at_once: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_repository(folder)
        (folder / "sweep.yaml").write_text(json.dumps({"seeds": list(range(experiments))}))
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PREFECT_", "DVC_"))
        }
        environment |= {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
        start = time.monotonic()
        with (folder / "output").open("w") as output:
            sweep = subprocess.Popen(
                [sys.executable, "-m", "flows.sweep", "sweep.yaml", "--at-once", str(at_once)],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
            )
            process, memory = psutil.Process(sweep.pid), []
            while sweep.poll() is None:
                try:
                    memory.append((count_experiments(folder), process.memory_info().rss))
                except psutil.NoSuchProcess:
                    break
                time.sleep(2)
        seconds = time.monotonic() - start
        log = (folder / "output").read_text()
        if sweep.wait():
            raise SystemExit(f"the sweep failed:\n{log[-4000:]}")
        resident = pd.DataFrame(memory, columns=["done", "bytes"])
        tenth, end = (
            resident[resident["done"] >= share * experiments]["bytes"].iloc[0]
            for share in (0.1, 0.95)
        )
        return {
            "experiments": experiments,
            "at_once": at_once,
            "kept": count_experiments(folder),
            "seconds": round(seconds, 1),
            "seconds_per_experiment": round(seconds / experiments, 2),
            "waits_for_a_lock": log.count("another DVC command"),
            "resident_MB_at_10_percent": round(tenth / 1e6),
            "resident_MB_at_95_percent": round(end / 1e6),
            "largest_MB": round(resident["bytes"].max() / 1e6),
        }


def count_experiments(folder: Path) -> int:
    """Count the stored experiments."""
    refs = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return sum(not ref.startswith("refs/exps/exec") for ref in refs.stdout.split())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=parse_positive, default=200, metavar="N")
    parser.add_argument("--at-once", type=parse_positive, default=2, metavar="N")
    parser.add_argument(
        "--out", type=parse_folder, metavar="FOLDER", help="also write sweep.csv there"
    )
    args = parser.parse_args()
    row = measure(args.experiments, args.at_once)
    for name, value in row.items():
        print(f"{name.replace('_', ' '):28} {value:,}")
    if args.out:
        write(args.out / "sweep.csv", [row])


if __name__ == "__main__":
    main()
