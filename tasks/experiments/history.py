"""The revisions of a repository and their experiments."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from episodic.core.registry import DATASETS, did_you_mean
from tasks.experiments.experiment import (
    WORKSPACE,
    Experiment,
    MissingFilesError,
    NoResultError,
    Revision,
)
from tasks.experiments.lock import read_params
from tasks.experiments.revision_files import (
    SCORES,
    CommitFiles,
    GitObjects,
    RevisionFiles,
    WorkspaceFiles,
)
from tasks.params import rename_keys
from tasks.reports.kit.trees import flatten
from tasks.runtime.stage import StageError

HISTORY, MODEL, DATA = "reports/history", "models/run", "data/prepared"


@dataclass(frozen=True)
class RevisionHistory:
    """The revisions of a repository.

    Attributes:
        root: The checkout.
        cache: Returns the location of a digest in DVC's cache.
        has_remote: Whether there is a DVC remote to pull files from.
    """

    root: Path
    cache: Callable[[str], str]
    has_remote: bool = False

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[RevisionHistory]:
        """Open the repository of a checkout.

        Raises:
            StageError: It is not a DVC repository.
        """
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo

        try:
            repo = Repo(str(root))
        except NotDvcRepoError as error:
            raise StageError(
                f"{root} is not a DVC repository; run in a checkout of the project"
            ) from error
        with repo:
            yield cls(root, repo.cache.local.oid_to_path, bool(repo.config["remote"]))

    def experiments(self) -> dict[str, tuple[str, str]]:
        """List the experiments of DVC, the oldest first.

        If several experiments with different base commits share a name, the latest one keeps it.
        The abbreviated base commit is appended to the others: NAME@BASE.

        Returns:
            Name -> (commit, base commit).
        """
        lines = self._git(
            "for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)", "refs/exps"
        ).splitlines()
        experiments: dict[str, tuple[str, str]] = {}
        for line in lines:
            commit, ref = line.split(" ", 1)
            parts = ref.split("/", 4)  # refs/exps/AB/CDEF.../NAME
            if len(parts) == 5 and len(parts[2]) == 2 and len(parts[3]) == 38:
                name, start = parts[4], parts[2] + parts[3]
                if name in experiments:
                    older = experiments.pop(name)
                    experiments[f"{name}@{older[1][:7]}"] = older
                experiments[name] = commit, start
        return experiments

    def find_named(self, names: Iterable[str]) -> list[Revision]:
        """Find experiments, branches, tags and commits, and `workspace`, by name.

        Raises:
            StageError: There is no such revision.
        """
        known = self.experiments()
        revisions = []
        for name in names:
            if name == WORKSPACE:
                revisions.append(Revision(name, ""))
            elif name in known:
                revisions.append(Revision(name, known[name][0]))
            elif commit := self._find_commit(name):
                revisions.append(Revision(name, commit))
            else:
                hint = did_you_mean(name, list(known))
                raise StageError(
                    f"there is no experiment or commit {name!r}{hint} (dvc exp list -A lists them)"
                )
        return revisions

    def _find_commit(self, name: str) -> str:
        args = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
        return self._git(*args, check=False).strip()

    def list_experiments(self) -> list[Revision]:
        """Return all experiments, for any base commit."""
        return [Revision(name, commit) for name, (commit, _) in self.experiments().items()]

    def list_since(self, name: str) -> list[Revision]:
        """Return the commits after a revision that changed the result, and the experiments since.

        Args:
            name: A commit, branch, tag or experiment.

        Raises:
            StageError: There is no such revision, or it is the workspace.
        """
        start = self.find_named([name])[0].commit
        if not start:
            raise StageError(
                "--since takes a commit, a branch, a tag or an experiment, not the workspace"
            )
        after = self._git("log", "--reverse", "--format=%H", f"{start}..HEAD").split()
        changed = self._git(
            "log", "--format=%H", f"{start}..HEAD", "--", "reports/metrics.json"
        ).split()
        commits = [Revision(commit[:7], commit) for commit in after if commit in set(changed)]
        starts = {start, *after}
        return commits + [
            Revision(experiment, commit)
            for experiment, (commit, base) in self.experiments().items()
            if base in starts
        ]

    def read(
        self, revisions: Sequence[Revision]
    ) -> Iterator[Experiment | NoResultError | MissingFilesError]:
        """Yield the experiment of each revision, or the error if it cannot be read."""
        with GitObjects(self.root) as objects:
            for revision in revisions:
                try:
                    files: RevisionFiles = WorkspaceFiles(self.root)
                    if revision.commit:
                        files = CommitFiles(revision, objects, self.cache)
                    yield read_experiment(revision, files)
                except (NoResultError, MissingFilesError) as error:
                    yield error

    def _git(self, *args: str, check: bool = True) -> str:
        process = subprocess.run(["git", *args], cwd=self.root, capture_output=True, text=True)
        if check and process.returncode:
            raise StageError(f"git {args[0]}: {process.stderr.strip() or 'failed'}")
        return process.stdout if not process.returncode else ""


def read_experiment(revision: Revision, files: RevisionFiles) -> Experiment:
    """Read an experiment from the files of its revision.

    Raises:
        NoResultError: No model was trained and tested at the revision.
        MissingFilesError: DVC's cache lacks files.
    """
    name = revision.name
    metrics = flatten(files.read_json("reports/metrics.json"))
    config = files.read_json(f"{MODEL}/config.json")
    meta = files.read_json(f"{DATA}/meta.json")
    run = files.read_json("reports/run.json")
    score = "accuracy" if meta["kind"] == "classification" else "mse"
    if score not in metrics or "steps" not in metrics:
        raise NoResultError(
            f"{name}: reports/metrics.json and data/prepared are of different kinds of task; run "
            "dvc repro there again"
        )
    episodes, curve = f"{SCORES}/episodes.parquet", f"{SCORES}/curve.csv"
    validation, classes = f"{HISTORY}/validation.csv", f"{SCORES}/classes.parquet"
    files.require(episodes, curve, validation)
    headline = [("mode", "==", config["batch_norm"]), ("step", "==", int(metrics["steps"]))]
    scores = pd.read_parquet(files.locate(episodes), columns=["episode", score], filters=headline)
    params_file = files.read_yaml("params.yaml")
    rename_keys(params_file)
    stages = files.read_stages()
    params = read_params(stages) or params_file
    return Experiment(
        name=name,
        commit=revision.commit,
        params=params,
        params_file=params_file,
        meta=meta,
        config=config,
        run=run,
        metrics=metrics,
        episodes=digest_episodes(files, stages, params, meta),
        score=score,
        scores=scores.sort_values("episode")[score].to_numpy(np.float64),
        curve=pd.read_csv(files.locate(curve)),
        validation=pd.read_csv(files.locate(validation)),
        classes=pd.read_parquet(files.locate(classes)) if files.has(classes) else pd.DataFrame(),
        file=files.locate,
    )


def digest_episodes(
    files: RevisionFiles, stages: dict[str, Any], params: dict[str, Any], meta: dict[str, Any]
) -> str:
    """Return the digest of the test episodes of an experiment.

    If the dataset has several encodings, it is a digest of the source, the class table and the
    rows of the episodes, so that pixels and features of the same images are comparable. Else it is
    the digest of the whole data.
    """
    name = meta["dataset"]
    tables = [f"{DATA}/classes.parquet", f"{DATA}/test.parquet"]
    keys = {field.name for field in fields(DATASETS[name])} if name in list(DATASETS) else set()
    if "features" not in keys or not all(map(files.has, tables)):
        return str(meta["data_digest"])
    parts = [name]
    if DATASETS[name].source_policy != "unused":
        # DVC stores the path of a dependency within the repository relative to it.
        source = Path(params["dataset"]["source"]).parts
        paths = {
            Path(d["path"]).parts: d["md5"] for d in stages.get("download", {}).get("deps", [])
        }
        found = [md5 for path, md5 in paths.items() if source[-len(path) :] == path]
        if not found:
            return str(meta["data_digest"])
        parts += found
    digest = hashlib.sha256(repr(parts).encode())
    for table in tables:
        digest.update(files.locate(table).read_bytes())
    return digest.hexdigest()[:16]
