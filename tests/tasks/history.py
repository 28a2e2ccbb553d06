"""A repository with experiments for tests: synthetic results where DVC and Git keep real ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import synthetic
from ruamel.yaml import YAML
from support import ROOT

from tasks.params import read_yaml
from tasks.reports.kit.trees import select_used
from tasks.runtime.files import read_json, write_json

OUTS = ("data/prepared", "models/run", "reports/history", "reports/run.json", "reports/scores")


class Repository:
    """A Git and DVC repository at `path`, to which results and experiments are added."""

    def __init__(self, path: Path, kind: str = "classification", **episodes: Any):
        self.path, self.kind = path, kind
        path.mkdir()
        self.git("init", "-q", "-b", "main")
        (path / ".dvc/cache/files/md5").mkdir(parents=True)
        (path / ".dvc/config").write_text("[core]\n    analytics = false\n")
        (path / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        shutil.copy(ROOT / ".gitignore", path / ".gitignore")
        self.git("add", "-A")
        self.git("commit", "-qm", "start")
        self.base = synthetic.write(path.parent / f"{path.name}-base", kind, **episodes)
        self.count = 0

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *args: str, **environment: str) -> str:
        author = {
            f"GIT_{role}_{field}": f"{role.lower()}@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for field in ("NAME", "EMAIL")
        }
        return subprocess.run(
            ["git", *args],
            cwd=self.path,
            env={**os.environ, **author, **environment},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def result(
        self,
        folder: Path,
        skill: float = 0.0,
        changes: dict[str, Any] | None = None,
        seconds: float = 60.0,
        noise: float = 0.0,
    ) -> Path:
        """Write the outputs of a run: a copy of the base with other params and other answers.

        Args:
            folder: The folder to create.
            skill: How much better the answers are than the base's; worse if negative.
            changes: Values of params by dotted key.
            seconds: The training time.
            noise: The fraction of wrong answers that become right; as many right ones become wrong.

        Returns:
            `folder`.
        """
        shutil.copytree(self.base, folder)
        params = YAML(typ="safe").load(folder / "params.yaml")
        for key, value in (changes or {}).items():
            section = params
            *path, last = key.split(".")
            for name in path:
                section = section.setdefault(name, {})
            section[last] = value
        with (folder / "params.yaml").open("w") as stream:
            YAML().dump(params, stream)
        rng = np.random.default_rng([self.count, params["train"]["seed"]])
        scores = folder / "reports/scores"
        episodes = pd.read_parquet(scores / "episodes.parquet")
        metrics, config = (
            read_json(folder / "reports/metrics.json"),
            read_json(folder / "models/run/config.json"),
        )
        mode = config["batch_norm"] = params["train"]["batch_norm"]
        name = params["algorithm"]["name"]
        config["algorithm"] = {"name": name} | params["algorithm"].get(name, {})
        config["classes"] = params["train"].get("classes") or 1000
        at = (episodes["mode"] == mode) & (episodes["step"] == metrics["steps"])
        if self.kind == "classification":
            predictions = pd.read_parquet(scores / "answers.parquet")
            other = (
                predictions["label"]
                if skill > 0
                else rng.integers(0, int(predictions["label"].max()) + 1, len(predictions))
            )
            predictions["after"] = np.where(
                rng.random(len(predictions)) < abs(skill), other, predictions["after"]
            )
            wrong = predictions["after"] != predictions["label"]
            turned = rng.random(len(predictions)) < np.where(
                wrong, noise, noise * wrong.mean() / (1 - wrong.mean())
            )
            instead = np.where(
                wrong,
                predictions["label"],
                (predictions["label"] + 1) % (int(predictions["label"].max()) + 1),
            )
            predictions["after"] = np.where(turned, instead, predictions["after"])
            predictions.to_parquet(scores / "answers.parquet", index=False)
            right = (
                (predictions["after"] == predictions["label"])
                .groupby(predictions["episode"])
                .mean()
            )
            episodes.loc[at, "accuracy"] = right.loc[episodes.loc[at, "episode"]].to_numpy()
            metrics["accuracy"] = float(right.mean())
        else:
            episodes.loc[at, "mse"] *= np.exp(-skill) * np.exp(rng.normal(0, 0.1, int(at.sum())))
            mean = float(episodes.loc[at, "mse"].mean())
            metrics["mse"] = mean if np.isfinite(mean) else None
        episodes.to_parquet(scores / "episodes.parquet", index=False)
        write_json(folder / "reports/metrics.json", metrics)
        write_json(folder / "models/run/config.json", config)
        write_json(
            folder / "reports/run.json",
            {"seconds": seconds, "peak_memory_bytes": 10**9, "device": "cpu"},
        )
        self.count += 1
        return folder

    def commit(self, folder: Path, message: str = "a result", keep: bool = True) -> str:
        """Commit a result's params, lock and metrics, and put its other files into the cache.

        Args:
            folder: The result.
            message: The commit's message.
            keep: Whether HEAD moves to the commit.

        Returns:
            The commit's hash.
        """
        stage = {
            "cmd": "true",
            "params": {"params.yaml": self._recorded_params(folder)},
            "outs": [self._store_output(folder, out) for out in OUTS],
        }
        lock = {"schema": "2.0", "stages": {"all": stage}}
        index = {"GIT_INDEX_FILE": str(self.path / ".git/index-of-a-test")}
        self.git("read-tree", "HEAD", **index)
        for name, content in (
            ("dvc.lock", json.dumps(lock)),
            ("params.yaml", (folder / "params.yaml").read_text()),
            ("reports/metrics.json", (folder / "reports/metrics.json").read_text()),
        ):
            (self.path / ".git/blob").write_text(content)
            blob = self.git("hash-object", "-w", ".git/blob").strip()
            self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", **index)
        # A second apart, since git knows no finer order.
        date = {"GIT_COMMITTER_DATE": f"@{1_700_000_000 + self.count} +0000"}
        commit = self.git(
            "commit-tree",
            self.git("write-tree", **index).strip(),
            "-p",
            "HEAD",
            "-m",
            message,
            **date,
        ).strip()
        if keep:
            self.git("reset", "-q", "--hard", commit)
        return commit

    def experiment(
        self,
        name: str,
        skill: float = 0.0,
        seconds: float = 60.0,
        noise: float = 0.0,
        **changes: Any,
    ) -> str:
        """An experiment as `dvc exp save` leaves it; `changes`: params, `__` for a dot."""
        folder = self.path.parent / f"{self.path.name}-{name}"
        self.result(
            folder,
            skill,
            {key.replace("__", "."): value for key, value in changes.items()},
            seconds,
            noise,
        )
        commit = self.commit(folder, name, keep=False)
        self.git("update-ref", f"refs/exps/{self.head[:2]}/{self.head[2:]}/{name}", commit)
        shutil.rmtree(folder)
        return commit

    def _recorded_params(self, folder: Path) -> dict[str, Any]:
        """The params as dvc.lock records them.

        A section that selects by name gives its keys in use one by one, other sections one value.
        """
        recorded: dict[str, Any] = {}
        for key, value in select_used(read_yaml(folder / "params.yaml")).items():
            picks = isinstance(value, dict) and "name" in value
            recorded |= {f"{key}.{name}": v for name, v in value.items()} if picks else {key: value}
        return recorded

    def _store_output(self, folder: Path, out: str) -> dict[str, Any]:
        if (folder / out).is_file():
            return {
                "path": out,
                "hash": "md5",
                "md5": self._store_object((folder / out).read_bytes()),
            }
        listing = [
            {
                "md5": self._store_object(p.read_bytes()),
                "relpath": p.relative_to(folder / out).as_posix(),
            }
            for p in sorted((folder / out).rglob("*"))
            if p.is_file()
        ]
        return {
            "path": out,
            "hash": "md5",
            "md5": self._store_object(json.dumps(listing).encode(), ".dir"),
        }

    def _store_object(self, content: bytes, end: str = "") -> str:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + end
        path = self.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return md5
