"""One experiment in a workspace of its own: a git worktree that shares the checkout's DVC cache.

The checkout itself stays as it is. What is uncommitted in tracked files belongs to the experiment too. DVC records it (`dvc exp save`), so
that `dvc exp show`, editors and tasks/compare.py see it; then the worktree goes. Where an experiment was killed it stays, and the next try
goes on in it. Worktrees are made, saved and removed one at a time, under a lock: neither git nor DVC wants two of that at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dvc_worker.driver import Worker, WorkerError, ending
from flows.dvc_worker.protocol import Plan, Reproduce, Verdict
from flows.dvc_worker.stage_output import Output
from flows.environment import for_dvc
from flows.experiments.points import changed
from flows.server import pages
from flows.workspace import alone
from tasks.params import read_yaml
from tasks.runtime.files import atomic_path
from tasks.runtime.stage import TRY_AGAIN, StageError

FOLDER = Path(".dvc/tmp/experiments")
RESULT = "reports/metrics.json"
MADE = (
    ":!params.yaml",
    ":!dvc.lock",
    ":!.dvc/tmp",
    ":!reports",
    ":!sweeps",
    ":!docs",
    ":!tests",
    ":!*.md",
    ":!*.gitignore",
)
"""What an experiment changes itself, and what changes no result: all else is code, and is the same in checkout and experiment."""
SHARE = {"processes": None}
"""A param that says how long a result takes and not what it is: with another share of the cores it is the same experiment."""

TRIES, DELAY = 3, 10.0
"""Of a stage whose failure another try may mend (a download), and of a save that meets another DVC command."""


@dataclass(frozen=True)
class Base:
    """What experiments start from: the commit, and the tree of the checkout with what is uncommitted in tracked files."""

    root: Path
    commit: str
    tree: str


def base(root: Path) -> Base:
    """The checkout as it is; it must have a commit."""
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
    if not commit:
        raise StageError(
            f"{root} has no commit yet: commit first, since experiments are kept beside a commit"
        )
    git(
        root, "update-index", "-q", "--refresh", check=False
    )  # a file that was touched and not changed would fail the stash
    return Base(root, commit, git(root, "stash", "create") or commit)


def ref(base: Base, name: str) -> str:
    return f"refs/exps/{base.commit[:2]}/{base.commit[2:]}/{name}"


def done(base: Base, name: str, wanted: Mapping[str, Any]) -> bool:
    """Whether the experiment is there already, with the same params and code."""
    from tasks.experiments.lock import parse_yaml

    found = git(base.root, "rev-parse", "--verify", "--quiet", ref(base, name), check=False)
    if not found or git(base.root, "diff", "--name-only", found, base.tree, "--", ".", *MADE):
        return False
    kept = parse_yaml(git(base.root, "show", f"{found}:params.yaml").encode())
    return kept | SHARE == dict(wanted) | SHARE


@contextmanager
def opened(base: Base, name: str, changes: Mapping[str, Any]) -> Iterator[Path]:
    """The experiment's workspace, its params written; kept as an experiment and removed if the block ends well, left to go on in if not.

    One at a time works in it: a second waits, and then finds what the first has computed. An experiment of this name with other params or
    code stays, under its name and the start of its commit.
    """
    workspace = base.root / FOLDER / name
    with alone(base.root, f"experiment {name}"):
        with locked(base.root):
            prepare(base, workspace)
        write_params(base.root / "params.yaml", workspace / "params.yaml", changes)
        wanted = changed(read_yaml(base.root / "params.yaml"), changes)
        bring_data(base.root, workspace, wanted)
        yield workspace
        with locked(base.root):
            keep_other(base, name, wanted)
            save(workspace, name)
            if not done(base, name, wanted):
                raise StageError(
                    f"dvc exp save left no experiment {name} with these params; its workspace is {workspace}"
                )
            remove(base, workspace)


def keep_other(base: Base, name: str, wanted: Mapping[str, Any]) -> None:
    """Gives an experiment that `name` would replace a name of its own."""
    found = git(base.root, "rev-parse", "--verify", "--quiet", ref(base, name), check=False)
    if found and not done(base, name, wanted):
        git(base.root, "update-ref", ref(base, f"{name}-{found[:7]}"), found)


def run(
    base: Base,
    name: str,
    changes: Mapping[str, Any],
    say: Callable[[str], None] = print,
    pull: bool = False,
) -> float:
    """Runs the experiment and keeps it; returns the seconds that its stages took. StageError: why it failed, in a sentence.

    pull: what others have computed comes from DVC's remote
    """
    with opened(base, name, changes) as workspace:
        start = time.monotonic()
        with Worker(workspace) as worker:
            output = Output(say)
            try:
                steps = worker.ask(Plan(), output.line)
                if isinstance(steps, Verdict):
                    raise StageError(f"dvc.yaml: {steps.message}")
                for stage in steps.names:
                    with alone(base.root, steps.digests.get(stage, stage)):
                        verdict = _stage(worker, Reproduce(stage, pull=pull), output)
                    say(f"{stage}: {verdict.outcome}")
                    if verdict.outcome in ("failed", "busy"):
                        raise StageError(f"{stage}: {output.reason(verdict)}")
            except WorkerError as error:
                raise StageError(str(error)) from error
        seconds = time.monotonic() - start
        pages.keep(base.root, workspace, name)
    return seconds


def _stage(worker: Worker, request: Reproduce, output: Output) -> Verdict:
    for tried in range(TRIES):
        verdict: Verdict = worker.ask(request, output.line)
        if verdict.exit_code != TRY_AGAIN and verdict.outcome != "busy":
            break
        if tried + 1 < TRIES:
            time.sleep(DELAY)
    return verdict


def prepare(base: Base, workspace: Path) -> None:
    """A worktree at the base, in which an earlier try may have left off."""
    if (
        workspace.exists()
        and git(workspace, "rev-parse", "--verify", "--quiet", "HEAD", check=False) != base.commit
    ):
        remove(base, workspace)
    git(base.root, "worktree", "prune")
    if not workspace.exists():
        workspace.parent.mkdir(parents=True, exist_ok=True)
        git(base.root, "worktree", "add", "--detach", str(workspace), base.commit)
        share_cache(base.root, workspace)
    if git(workspace, "diff", "--name-only", base.tree, "--", ".", *MADE):
        git(workspace, "checkout", base.tree, "--", ".")
        git(workspace, "reset", "--quiet")


def share_cache(root: Path, workspace: Path) -> None:
    """The checkout's own configuration, its cache and remotes by absolute paths; outputs are linked where that is safe."""
    from configobj import ConfigObj
    from dvc.repo import Repo

    local = root / ".dvc" / "config.local"
    config = ConfigObj(str(local) if local.exists() else None)
    with Repo(str(root)) as repo:
        cache = Path(repo.cache.local.path)
        for name, remote in repo.config["remote"].items():
            if Path(
                url := str(remote.get("url", ""))
            ).is_absolute():  # DVC has made it so; in the worktree it would be another
                config.setdefault(f'remote "{name}"', {})["url"] = url
    config.setdefault("cache", {})["dir"] = str(
        cache.parent.parent if cache.parts[-2:] == ("files", "md5") else cache
    )
    config["cache"].setdefault("type", "reflink,hardlink,copy")
    config.filename = str(workspace / ".dvc" / "config.local")
    config.write()


def bring_data(root: Path, workspace: Path, params: Mapping[str, Any]) -> None:
    """The user's own data and encoders, where params name them by a path in the checkout that git does not know: links there."""

    def part(section: Any, key: str) -> Any:
        return section.get(key) if isinstance(section, Mapping) else None

    dataset = params.get("dataset")
    features = (
        [part(section, "features") for section in dataset.values()]
        if isinstance(dataset, Mapping)
        else []
    )
    for name in (part(dataset, "source"), *(part(section, "path") for section in features)):
        if not isinstance(name, str) or Path(name).is_absolute():
            continue
        here, there = root / name, workspace / name
        if here.exists() and not there.exists() and not there.is_symlink():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(here)


def write_params(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """The file with `changes` made; it keeps its comments."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 10_000, True
    yaml.representer.add_representer(
        type(None),
        lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"),
    )
    content = yaml.load(source)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = content
        for name in path:
            section = section.setdefault(name, {})
        if isinstance(value, list) and isinstance(section.get(last), list):
            section[last][:] = value  # in the way it was written
        else:
            section[last] = value
    with atomic_path(target) as draft, draft.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def save(workspace: Path, name: str) -> None:
    """Has DVC record the workspace as an experiment."""
    command = ["save", "--force", "--name", name]
    if (workspace / RESULT).exists():
        command += ["--include-untracked", RESULT]
    dvc_exp(workspace, *command)


def sharing(root: Path, remote: str) -> None:
    """StageError unless experiments can be shared through the git remote of that name and DVC's default remote."""
    from dvc.repo import Repo

    if not git(root, "remote", "get-url", remote, check=False):
        raise StageError(f"there is no git remote {remote}: git remote add {remote} URL")
    with Repo(str(root)) as repo:
        if not repo.config["core"].get("remote"):
            raise StageError(
                "DVC has no default remote to share files through: dvc remote add --default NAME URL"
            )


def share(root: Path, remote: str, names: Sequence[str]) -> None:
    """Pushes the experiments to the git remote, their files and the record of their runs to DVC's remote."""
    if names:
        dvc_exp(root, "push", "--force", "--run-cache", remote, *names)


def dvc_exp(folder: Path, *words: str) -> None:
    """A command of `dvc exp`, tried again where another DVC command is at work."""
    for tried in range(TRIES):
        command = [sys.executable, "-m", "dvc", "exp", *words]
        ended = subprocess.run(
            command,
            cwd=folder,
            env=for_dvc(folder) | nobody(folder),
            capture_output=True,
            text=True,
        )
        if not ended.returncode:
            return
        if ended.returncode < 0:  # what it left behind is no state to try again in
            raise StageError(f"dvc exp {words[0]} {ending(ended.returncode)}")
        if tried + 1 < TRIES:
            time.sleep(DELAY)
    said = [
        line.removeprefix("ERROR: ")
        for line in ended.stderr.splitlines()
        if line.startswith("ERROR")
    ]
    raise StageError(f"dvc exp {words[0]}: {said[0] if said else f'exit code {ended.returncode}'}")


def remove(base: Base, workspace: Path) -> None:
    git(base.root, "worktree", "remove", "--force", str(workspace), check=False)
    shutil.rmtree(workspace, ignore_errors=True)
    git(base.root, "worktree", "prune")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One at a time, of all processes and threads that make, save or remove experiments here."""
    path = root / ".dvc" / "tmp" / "experiments.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def nobody(folder: Path) -> dict[str, str]:
    """A name for commits where the user has given git none: DVC and `git stash` need one, and what they make is only kept beside."""
    known = (
        subprocess.run(["git", "config", "user.email"], cwd=folder, capture_output=True).returncode
        == 0
        or "GIT_AUTHOR_EMAIL" in os.environ
    )
    return (
        {}
        if known
        else {
            f"GIT_{role}_{what}": "episodic"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
    )


def git(folder: Path, *words: str, check: bool = True) -> str:
    """What git prints; StageError in its words where it fails, '' with `check` off."""
    ended = subprocess.run(
        ["git", *words], cwd=folder, env=os.environ | nobody(folder), capture_output=True, text=True
    )
    if check and ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise StageError(
            f"git {words[0]}: {said[-1].removeprefix('fatal: ') if said else 'failed'}"
        )
    return ended.stdout.strip() if not ended.returncode else ""
