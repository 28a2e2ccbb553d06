"""Workspaces of experiments: Git worktrees that share the checkout's DVC cache.

The checkout itself stays as it is. Uncommitted changes of its tracked files are part of every
experiment.
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
"""Where the worktrees are, in the checkout."""

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
"""Git pathspecs of what an experiment writes itself or what changes no result.

All other files are code, which must be the same in an experiment and its checkout.
"""


@dataclass(frozen=True)
class Base:
    """What experiments start from.

    Attributes:
        root: The checkout.
        commit: Its commit.
        tree: Its commit with the uncommitted changes of tracked files.
    """

    root: Path
    commit: str
    tree: str


def read_base(root: Path) -> Base:
    """Return the checkout's present state.

    Raises:
        StageError: The checkout has no commit.
    """
    commit = run_git(root, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
    if not commit:
        raise StageError(
            f"{root} has no commit yet: commit first, since experiments start from a commit"
        )
    # The stash fails on a file whose timestamp alone has changed.
    run_git(root, "update-index", "-q", "--refresh", check=False)
    return Base(root, commit, run_git(root, "stash", "create") or commit)


@contextmanager
def worktree_lock(root: Path) -> Iterator[None]:
    """Let one thread of one process at a time create, save or remove worktrees.

    Neither git nor DVC supports several of these at the same time.
    """
    path = root / ".dvc" / "tmp" / "experiments.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare_worktree(base: Base, worktree: Path) -> None:
    """Create a worktree at the base, or takes up one that an interrupted run has left."""
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
    """Configure DVC in a worktree: the checkout's settings, cache and remotes.

    Paths become absolute, and outputs are linked to the cache where that is safe.
    """
    from configobj import ConfigObj
    from dvc.repo import Repo

    local = root / ".dvc" / "config.local"
    config = ConfigObj(str(local) if local.exists() else None)
    with Repo(str(root)) as repo:
        cache = Path(repo.cache.local.path)
        for name, remote in repo.config["remote"].items():
            url = str(remote.get("url", ""))
            if Path(url).is_absolute():  # DVC has resolved it; the worktree would resolve another
                config.setdefault(f'remote "{name}"', {})["url"] = url
    folder = cache.parent.parent if cache.parts[-2:] == ("files", "md5") else cache
    config.setdefault("cache", {})["dir"] = str(folder)
    config["cache"].setdefault("type", "reflink,hardlink,copy")
    config.filename = str(worktree / ".dvc" / "config.local")
    config.write()


def link_user_data(root: Path, worktree: Path, params: Mapping[str, Any]) -> None:
    """Link the user's own data and encoders, which git does not track, into a worktree.

    These are the paths relative to the checkout at `dataset.source` and `dataset.*.features.path`.
    A folder that git tracks, such as data/own, is in the worktree already: its files are linked.
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
        if original.is_dir() and link.is_dir() and not link.is_symlink():
            link_files(original, link)
        elif original.exists() and not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(original)


def link_files(original: Path, target: Path) -> None:
    """Make the visible files of a folder those of another, as hard links: DVC follows no others."""
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
    """Write params.yaml with `changes` by dotted key; comments and layout are kept."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 10_000, True
    yaml.representer.add_representer(
        type(None),
        lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"),
    )
    content = yaml.load(source)
    rename_keys(content)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = content
        for name in path:
            section = section.setdefault(name, {})
        if isinstance(value, list) and isinstance(section.get(last), list):
            section[last][:] = value  # keeps the style of the list
        else:
            section[last] = value
    with atomic_path(target) as draft, draft.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
