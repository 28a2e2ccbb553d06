"""Experiments and commits as DVC keeps them, read without checking anything out: what a comparison needs of each.

Small files come from git, the rest from DVC's cache, where `dvc.lock` of the revision says it is. No stage uses this module.
"""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pandas as pd

from episodic.core.registry import did_you_mean
from tasks.preset import merge
from tasks.reports.kit.results import flat
from tasks.runtime.stage import StageError

WORKSPACE = "workspace"

SCORES, HISTORY, MODEL, DATA = "reports/scores", "reports/history", "models/run", "data/prepared"


class Revision(NamedTuple):
    """name: as a person says it; commit: its hash, or '' for the files of the workspace"""

    name: str
    commit: str


@dataclass(frozen=True)
class Experiment:
    """One trained and tested model.

    params: what its stages ran with, in the shape of params.yaml, by dvc.lock; stated: params.yaml as it stands, which says something else
    where it was edited since; meta, config, run: the JSON files of that name (docs/files.md); metrics: dotted key -> number
    scores: accuracy or squared error of each test episode, in the headline's mode after its number of steps `(episodes,)`
    curve, validation, classes: the tables of that name; file: path of a file of a later look, such as the test episodes' pictures
    """

    name: str
    commit: str
    params: dict[str, Any]
    stated: dict[str, Any]
    meta: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, Any]
    metrics: dict[str, float]
    score: str
    scores: np.ndarray
    curve: pd.DataFrame = field(repr=False)
    validation: pd.DataFrame = field(repr=False)
    classes: pd.DataFrame = field(repr=False)
    file: Callable[[str], Path] = field(repr=False)

    @property
    def mode(self) -> str:
        return self.config["batch_norm"]

    @property
    def steps(self) -> int:
        return int(self.metrics["steps"])


class Missing(StageError):
    """Files of a revision that are not in the cache; `names` are theirs."""

    def __init__(self, revision: str, names: Sequence[str]):
        super().__init__(f"{revision}: the cache lacks {', '.join(names)}")
        self.revision, self.names = revision, list(names)


class NoResultError(StageError):
    """A revision at which nothing has been trained and tested."""


@dataclass(frozen=True)
class History:
    """A repository's revisions.

    root: of the checkout; cache: where DVC keeps the files (DVC's own word for it); remote: whether there is one to pull them from
    """

    root: Path
    cache: Callable[[str], str]
    remote: bool = False

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[History]:
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo

        try:
            repo = Repo(str(root))
        except NotDvcRepoError as error:
            raise StageError(
                f"{root} is not a DVC repository: run in a checkout of the project"
            ) from error
        with repo:
            yield cls(root, repo.cache.local.oid_to_path, bool(repo.config["remote"]))

    def experiments(self) -> dict[str, tuple[str, str]]:
        """Every experiment that DVC knows here: name -> (commit, the commit that it started from), the oldest first.

        Of several of one name, from different commits, the latest has the name and the others NAME@ and the start of the commit that each
        started from.
        """
        lines = self._git(
            "for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)", "refs/exps"
        ).splitlines()
        found: dict[str, tuple[str, str]] = {}
        for line in lines:
            commit, ref = line.split(" ", 1)
            parts = ref.split("/", 4)  # refs/exps/AB/CDEF.../NAME
            if len(parts) == 5 and len(parts[2]) == 2 and len(parts[3]) == 38:
                if parts[4] in found:
                    older = found.pop(parts[4])
                    found[f"{parts[4]}@{older[1][:7]}"] = older
                found[parts[4]] = commit, parts[2] + parts[3]
        return found

    def named(self, names: Iterable[str]) -> list[Revision]:
        """Experiments, branches, tags and commits by name, and `workspace`; StageError names what there is not."""
        known = self.experiments()
        result = []
        for name in names:
            if name == WORKSPACE:
                result.append(Revision(name, ""))
            elif name in known:
                result.append(Revision(name, known[name][0]))
            elif commit := self._git(
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                f"{name}^{{commit}}",
                check=False,
            ).strip():
                result.append(Revision(name, commit))
            else:
                raise StageError(
                    f"there is no experiment or commit {name!r}{did_you_mean(name, list(known))} (dvc exp list -A shows them)"
                )
        return result

    def everything(self) -> list[Revision]:
        """All experiments, whatever commit they started from."""
        return [Revision(name, commit) for name, (commit, _) in self.experiments().items()]

    def since(self, rev: str) -> list[Revision]:
        """Commits after `rev` that changed the result, and the experiments that started at `rev` or after it."""
        start = self.named([rev])[0].commit
        if not start:
            raise StageError(
                "--since takes a commit, a branch, a tag or an experiment, not the workspace"
            )
        after = self._git("log", "--reverse", "--format=%H", f"{start}..HEAD").split()
        changed = set(
            self._git("log", "--format=%H", f"{start}..HEAD", "--", "reports/metrics.json").split()
        )
        commits = [Revision(commit[:7], commit) for commit in after if commit in changed]
        based = {start, *after}
        return commits + [
            Revision(name, commit)
            for name, (commit, baseline) in self.experiments().items()
            if baseline in based
        ]

    def read(self, revisions: Sequence[Revision]) -> Iterator[Experiment | NoResultError | Missing]:
        """What each holds, in their order; in the place of one that cannot be read, why."""
        with _Objects(self.root) as objects:
            for revision in revisions:
                try:
                    yield self._one(revision, objects)
                except (NoResultError, Missing) as error:
                    yield error

    def _one(self, revision: Revision, objects: _Objects) -> Experiment:
        files = (
            _Workspace(self.root) if not revision.commit else _Commit(revision, objects, self.cache)
        )
        name = revision.name
        metrics = flat(files.json("reports/metrics.json"))
        config, meta, run = (
            files.json(f"{MODEL}/config.json"),
            files.json(f"{DATA}/meta.json"),
            files.json("reports/run.json"),
        )
        score = "accuracy" if meta["kind"] == "classification" else "mse"
        if score not in metrics or "steps" not in metrics:
            raise NoResultError(
                f"{name}: reports/metrics.json is of another kind than data/prepared; run dvc repro there again"
            )
        files.need(f"{SCORES}/episodes.parquet", f"{SCORES}/curve.csv", f"{HISTORY}/validation.csv")
        wanted = [("mode", "==", config["batch_norm"]), ("step", "==", int(metrics["steps"]))]
        table = pd.read_parquet(
            files.path(f"{SCORES}/episodes.parquet"), columns=["episode", score], filters=wanted
        )
        classes, stated = f"{SCORES}/classes.parquet", files.yaml("params.yaml")
        return Experiment(
            name=name,
            commit=revision.commit,
            params=_ran_with(files.stages()) or stated,
            stated=stated,
            meta=meta,
            config=config,
            run=run,
            metrics=metrics,
            score=score,
            scores=table.sort_values("episode")[score].to_numpy(np.float64),
            curve=pd.read_csv(files.path(f"{SCORES}/curve.csv")),
            validation=pd.read_csv(files.path(f"{HISTORY}/validation.csv")),
            classes=pd.read_parquet(files.path(classes)) if files.has(classes) else pd.DataFrame(),
            file=files.path,
        )

    def _git(self, *words: str, check: bool = True) -> str:
        ended = subprocess.run(["git", *words], cwd=self.root, capture_output=True, text=True)
        if check and ended.returncode:
            raise StageError(f"git {words[0]}: {ended.stderr.strip() or 'failed'}")
        return ended.stdout if not ended.returncode else ""


class _Objects:
    """Files of commits, by one `git cat-file` for all of them."""

    def __init__(self, root: Path):
        self.process = subprocess.Popen(
            ["git", "cat-file", "--batch"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.ask, self.answer = (
            cast(IO[bytes], self.process.stdin),
            cast(IO[bytes], self.process.stdout),
        )

    def __enter__(self) -> _Objects:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()

    def get(self, commit: str, path: str) -> bytes | None:
        self.ask.write(f"{commit}:{path}\n".encode())
        self.ask.flush()
        head = self.answer.readline().split()
        return None if head[-1] == b"missing" else self.answer.read(int(head[2]) + 1)[:-1]


class _Files(ABC):
    """The files of one revision by their path in the repository."""

    @abstractmethod
    def bytes(self, path: str) -> bytes: ...

    @abstractmethod
    def path(self, path: str) -> Path: ...

    @abstractmethod
    def has(self, path: str) -> bool: ...

    @abstractmethod
    def stages(self) -> dict[str, Any]:
        """Those of dvc.lock."""

    def need(self, *paths: str) -> None:  # noqa: B027 (the workspace tells a missing file when it is read)
        """Raises Missing with all that are not there, so that one pull brings them."""

    def json(self, path: str) -> Any:
        return json.loads(self.bytes(path))

    def yaml(self, path: str) -> Any:
        return parsed(self.bytes(path))


class _Workspace(_Files):
    def __init__(self, root: Path):
        self.root = root

    def bytes(self, path: str) -> bytes:
        return self.path(path).read_bytes()

    def has(self, path: str) -> bool:
        return (self.root / path).is_file()

    def stages(self) -> dict[str, Any]:
        return _lock(self.bytes("dvc.lock")) if self.has("dvc.lock") else {}

    def path(self, path: str) -> Path:
        if not self.has(path):
            raise NoResultError(f"{WORKSPACE}: there is no {path}; run dvc repro, or dvc pull")
        return self.root / path


class _Commit(_Files):
    def __init__(self, revision: Revision, objects: _Objects, cache: Callable[[str], str]):
        self.name, self.commit, self.objects, self.cache = (
            revision.name,
            revision.commit,
            objects,
            cache,
        )
        self.locked = _lock(objects.get(revision.commit, "dvc.lock"))
        self.outs = {
            out["path"]: out["md5"]
            for stage in self.locked.values()
            for out in stage.get("outs", [])
        }
        if SCORES not in self.outs:
            raise NoResultError(
                f"{self.name}: no stage evaluate has run there (dvc.lock has no {SCORES})"
            )
        self.folders: dict[str, dict[str, str]] = {}

    def bytes(self, path: str) -> bytes:
        content = self.objects.get(self.commit, path)
        return content if content is not None else self.path(path).read_bytes()

    def has(self, path: str) -> bool:
        return self._md5(path) is not None

    def stages(self) -> dict[str, Any]:
        return self.locked

    def need(self, *paths: str) -> None:
        lacking = []
        for path in paths:
            try:
                self.path(path)
            except Missing as error:
                lacking += error.names
        if lacking:
            raise Missing(self.name, list(dict.fromkeys(lacking)))

    def path(self, path: str) -> Path:
        md5 = self._md5(path)
        if md5 is None:
            raise NoResultError(f"{self.name}: its dvc.lock has no {path}")
        return self._cached(md5, path)

    def _md5(self, path: str) -> str | None:
        if path in self.outs:
            return self.outs[path]
        folder, name = next(
            ((f, path[len(f) + 1 :]) for f in self.outs if path.startswith(f + "/")), ("", "")
        )
        if not folder:
            return None
        if folder not in self.folders:
            listing = self._cached(self.outs[folder], folder)
            self.folders[folder] = {
                entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())
            }
        return self.folders[folder].get(name)

    def _cached(self, md5: str, path: str) -> Path:
        found = Path(self.cache(md5))
        if not found.is_file():
            raise Missing(self.name, [path])
        return found


def parsed(content: bytes) -> Any:
    """YAML 1.2 as plain values."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(content)


class _Plain(str):
    """A scalar of dvc.lock without quotes: what type it has, YAML's rules say."""


def _lock(content: bytes | None) -> dict[str, Any]:
    """The stages of a dvc.lock with every scalar as text, so that no rule of a YAML version touches a digest; faster than `parsed`."""
    import yaml

    base: Any = getattr(
        yaml, "CBaseLoader", yaml.BaseLoader
    )  # makes text, lists and mappings, and nothing else

    class Loader(base):
        def construct_scalar(self, node: Any) -> str:
            return node.value if node.style in ("'", '"', "|", ">") else _Plain(node.value)

    return ((yaml.load(content, Loader) if content else None) or {}).get("stages", {})  # noqa: S506


def _ran_with(stages: dict[str, Any]) -> dict[str, Any]:
    """The params that the stages of a dvc.lock ran with, in the shape of params.yaml; empty where it records none."""
    result: dict[str, Any] = {}
    # The report's stage only repeats what the others ran with, and may not have run since.
    for name in sorted(stages, key=lambda name: name != "report"):
        for key, value in (stages[name].get("params", {}).get("params.yaml") or {}).items():
            for part in reversed(key.split(".")):
                value = {str(part): value}
            merge(result, _typed(value))
    return result


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _typed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_typed(v) for v in value]
    return _scalar(str(value)) if isinstance(value, _Plain) else value


@cache
def _scalar(text: str) -> Any:
    """By the rules by which the stages read params.yaml; once for each text, which many experiments share."""
    return parsed(text.encode())
