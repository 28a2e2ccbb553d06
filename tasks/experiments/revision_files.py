"""The files of a revision: of the workspace, or of a commit from git and DVC's cache."""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from tasks.experiments.experiment import WORKSPACE, MissingFilesError, NoResultError, Revision
from tasks.experiments.lock import parse_lock, parse_yaml

SCORES = "reports/scores"


class GitObjects:
    """Reads files of commits through one `git cat-file` process.

    Args:
        root: The checkout.
    """

    def __init__(self, root: Path):
        self.process = subprocess.Popen(
            ["git", "cat-file", "--batch"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.requests = cast(IO[bytes], self.process.stdin)
        self.replies = cast(IO[bytes], self.process.stdout)

    def __enter__(self) -> GitObjects:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()

    def read(self, commit: str, path: str) -> bytes | None:
        """Return the content of a file of a commit; None if there is none."""
        self.requests.write(f"{commit}:{path}\n".encode())
        self.requests.flush()
        header = self.replies.readline().split()
        if header[-1] == b"missing":
            return None
        return self.replies.read(int(header[2]) + 1)[:-1]


class RevisionFiles(ABC):
    """The files of a revision by their path in the repository."""

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """Return the content of a file."""

    @abstractmethod
    def locate(self, path: str) -> Path:
        """Return the location of an output of a stage on disk."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Return whether the output exists."""

    @abstractmethod
    def read_stages(self) -> dict[str, Any]:
        """Return the stages of dvc.lock."""

    def require(self, *paths: str) -> None:  # noqa: B027 (the workspace reports missing files later)
        """Raise MissingFilesError with all files that are missing so that one pull gets them."""

    def read_json(self, path: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads(self.read_bytes(path))

    def read_yaml(self, path: str) -> Any:
        """Return the content of a YAML file."""
        return parse_yaml(self.read_bytes(path))


class WorkspaceFiles(RevisionFiles):
    """The files of the workspace.

    Args:
        root: The checkout.
    """

    def __init__(self, root: Path):
        self.root = root

    def read_bytes(self, path: str) -> bytes:
        return self.locate(path).read_bytes()

    def has(self, path: str) -> bool:
        return (self.root / path).is_file()

    def read_stages(self) -> dict[str, Any]:
        return parse_lock(self.read_bytes("dvc.lock")) if self.has("dvc.lock") else {}

    def locate(self, path: str) -> Path:
        if not self.has(path):
            raise NoResultError(f"{WORKSPACE}: {path} does not exist; run dvc repro, or dvc pull")
        return self.root / path


class CommitFiles(RevisionFiles):
    """The files of a commit: small ones from git, outputs from DVC's cache.

    Args:
        revision: The revision.
        objects: Reads files of commits.
        cache: Returns the location of a digest in DVC's cache.
    """

    def __init__(self, revision: Revision, objects: GitObjects, cache: Callable[[str], str]):
        self.name, self.commit = revision.name, revision.commit
        self.objects, self.cache = objects, cache
        self.stages = parse_lock(objects.read(revision.commit, "dvc.lock"))
        self.outputs = {
            output["path"]: output["md5"]
            for stage in self.stages.values()
            for output in stage.get("outs", [])
        }
        if SCORES not in self.outputs:
            raise NoResultError(
                f"{self.name}: the stage evaluate has not run there (dvc.lock has no {SCORES})"
            )
        self.listings: dict[str, dict[str, str]] = {}

    def read_bytes(self, path: str) -> bytes:
        content = self.objects.read(self.commit, path)
        return content if content is not None else self.locate(path).read_bytes()

    def has(self, path: str) -> bool:
        return self._find_digest(path) is not None

    def read_stages(self) -> dict[str, Any]:
        return self.stages

    def require(self, *paths: str) -> None:
        missing = []
        for path in paths:
            try:
                self.locate(path)
            except MissingFilesError as error:
                missing += error.names
        if missing:
            raise MissingFilesError(self.name, list(dict.fromkeys(missing)))

    def locate(self, path: str) -> Path:
        digest = self._find_digest(path)
        if digest is None:
            raise NoResultError(f"{self.name}: its dvc.lock has no {path}")
        return self._locate_digest(digest, path)

    def _find_digest(self, path: str) -> str | None:
        if path in self.outputs:
            return self.outputs[path]
        folder = next((folder for folder in self.outputs if path.startswith(f"{folder}/")), None)
        if folder is None:
            return None
        if folder not in self.listings:
            listing = self._locate_digest(self.outputs[folder], folder)
            self.listings[folder] = {
                entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())
            }
        return self.listings[folder].get(path.removeprefix(f"{folder}/"))

    def _locate_digest(self, digest: str, path: str) -> Path:
        location = Path(self.cache(digest))
        if not location.is_file():
            raise MissingFilesError(self.name, [path])
        return location
