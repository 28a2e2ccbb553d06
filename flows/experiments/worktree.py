"""Workspaces of experiments: Git worktrees that share the checkout's DVC cache.

The checkout itself is not modified. Every experiment includes the uncommitted changes of tracked
files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.experiments.git import run_git
from tasks.params import rename_keys
from tasks.runtime.files import atomic_path
from tasks.runtime.stage import StageError

FOLDER = Path(".dvc/tmp/experiments")
"""Folder of the worktrees, relative to the checkout."""

NOT_CODE = (
    ":!params.yaml",
    ":!dvc.lock",
    ":!.dvc/tmp",
    ":!reports",
    ":!conf/sweeps",
    ":!docs",
    ":!tests",
    ":!*.md",
    ":!*.gitignore",
)
"""Git pathspecs of files that an experiment writes or that do not affect its result.

All other files are code, which must be the same in an experiment and its checkout.
"""


@dataclass(frozen=True)
class Base:
    """The state of the checkout that experiments start from.

    Attributes:
        root: Root of the checkout.
        commit: Current commit.
        tree: Commit that also contains the uncommitted changes of tracked files.
    """

    root: Path
    commit: str
    tree: str


def read_base(root: Path) -> Base:
    """Return the current state of the checkout.

    Raises:
        StageError: The checkout has no commit.
    """
    commit = run_git(root, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
    if not commit:
        raise StageError(
            f"{root} has no commits; commit first, because experiments start from a commit"
        )
    # The stash fails on a file of which only the timestamp has changed.
    run_git(root, "update-index", "-q", "--refresh", check=False)
    return Base(root, commit, run_git(root, "stash", "create") or commit)


@contextmanager
def worktree_lock(root: Path) -> Iterator[None]:
    """Allow only one thread of one process at a time to create, save or remove worktrees.

    Neither git nor DVC supports concurrent changes.
    """
    path = root / ".dvc" / "tmp" / "experiments.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare_worktree(base: Base, worktree: Path) -> None:
    """Create a worktree at the base, or reuse the one of an interrupted run."""
    if worktree.exists():
        head = run_git(worktree, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
        if head != base.commit:
            remove_worktree(base.root, worktree)
    run_git(base.root, "worktree", "prune")
    if not worktree.exists():
        worktree.parent.mkdir(parents=True, exist_ok=True)
        run_git(base.root, "worktree", "add", "--detach", str(worktree), base.commit)
        share_cache(base.root, worktree)
    if run_git(worktree, "diff", "--name-only", base.tree, "--", ".", *NOT_CODE):
        run_git(worktree, "checkout", base.tree, "--", ".")
        run_git(worktree, "reset", "--quiet")


def remove_worktree(root: Path, worktree: Path) -> None:
    run_git(root, "worktree", "remove", "--force", str(worktree), check=False)
    shutil.rmtree(worktree, ignore_errors=True)
    run_git(root, "worktree", "prune")


def share_cache(root: Path, worktree: Path) -> None:
    """Configure DVC in a worktree to use the checkout's settings, cache and remotes.

    Paths become absolute. Outputs are linked to the cache if that is safe.
    """
    from configobj import ConfigObj
    from dvc.repo import Repo

    local = root / ".dvc" / "config.local"
    config = ConfigObj(str(local) if local.exists() else None)
    with Repo(str(root)) as repo:
        cache = Path(repo.cache.local.path)
        for name, remote in repo.config["remote"].items():
            url = str(remote.get("url", ""))
            if Path(url).is_absolute():  # resolved against the checkout, not the worktree
                config.setdefault(f'remote "{name}"', {})["url"] = url
    folder = cache.parent.parent if cache.parts[-2:] == ("files", "md5") else cache
    config.setdefault("cache", {})["dir"] = str(folder)
    config["cache"].setdefault("type", "reflink,hardlink,copy")
    config.filename = str(worktree / ".dvc" / "config.local")
    config.write()


def link_user_data(root: Path, worktree: Path, params: Mapping[str, Any]) -> None:
    """Link the user's own data and encoders, which git does not track, into a worktree.

    These are the relative paths `dataset.source` and `dataset.*.features.path`. A folder that git
    tracks, such as data/own, already exists in the worktree, so its files are linked instead.

    Raises:
        StageError: A path leads to another folder from the worktree than from the checkout.
    """
    dataset = params.get("dataset")
    if not isinstance(dataset, Mapping):
        return
    names = [dataset.get("source")]
    for section in dataset.values():
        features = section.get("features") if isinstance(section, Mapping) else None
        if isinstance(features, Mapping):
            names.append(features.get("path"))
    for name in names:
        if not isinstance(name, str) or Path(name).is_absolute():
            continue
        original, link = root / name, worktree / name
        inside = is_visible_part(Path(name))
        if inside and original.is_dir() and link.is_dir() and not link.is_symlink():
            link_files(original, link)
        elif original.exists() and not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(original)
        elif not inside and original.exists() and original.resolve() != link.resolve():
            raise StageError(
                f"the path {name} of params.yaml is not found from the workspace of an experiment;"
                " use an absolute path, or one inside the checkout"
            )


def is_visible_part(path: Path) -> bool:
    """Whether a relative path is part of a checkout and not of a hidden folder."""
    return bool(path.parts) and not any(part.startswith(".") for part in path.parts)


def link_files(original: Path, target: Path) -> None:
    """Replace the visible files of `target` by hard links, since DVC does not follow symlinks."""
    for path in target.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(original, target, ignore=hidden, copy_function=os.link, dirs_exist_ok=True)


def write_params(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Write a copy of params.yaml with changed settings. Comments and layout are preserved.

    Args:
        source: The original.
        target: The copy.
        changes: Settings by dotted key.
    """
    from tasks.preset import round_trip_yaml

    yaml = round_trip_yaml()
    content = yaml.load(source)
    rename_keys(content)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = content
        for name in path:
            section = section.setdefault(name, {})
        if isinstance(value, list) and isinstance(section.get(last), list):
            section[last][:] = value  # preserves the style of the list
        else:
            section[last] = value
    with atomic_path(target) as draft, draft.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
