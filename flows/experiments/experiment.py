"""One experiment, run in a worktree of its own and recorded by DVC.

`dvc exp save` records it, so that `dvc exp show`, editors and tasks/compare.py find it. The
worktree is then removed. An interrupted experiment keeps its worktree, and the next run resumes
in it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.dvc_worker.driver import Worker, describe_exit
from flows.dvc_worker.protocol import StageRequest
from flows.environment import dvc_environment
from flows.experiments.git import fallback_identity, run_git
from flows.experiments.points import apply_changes
from flows.experiments.worktree import (
    FOLDER,
    NOT_CODE,
    Base,
    link_user_data,
    prepare_worktree,
    remove_worktree,
    worktree_lock,
    write_params,
)
from flows.server.pages import copy_pages
from flows.stages import bring_up_to_date
from flows.workspace import work_lock
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

METRICS = "reports/metrics.json"

SHARE_OF_CORES = {"processes": None}
"""A param that changes how long an experiment takes, but not its result."""

DVC_TRIES = 3
DVC_RETRY_DELAY = 10.0
"""Seconds before `dvc exp` is retried, which fails while another DVC command works."""


def experiment_ref(base: Base, name: str) -> str:
    """Return the Git ref under which DVC keeps an experiment."""
    return f"refs/exps/{base.commit[:2]}/{base.commit[2:]}/{name}"


def is_done(base: Base, name: str, params: Mapping[str, Any]) -> bool:
    """Whether an experiment of this name exists with the same params and the same code."""
    from tasks.experiments.lock import parse_yaml

    commit = find_experiment(base, name)
    if not commit:
        return False
    if run_git(base.root, "diff", "--name-only", commit, base.tree, "--", ".", *NOT_CODE):
        return False
    kept = parse_yaml(run_git(base.root, "show", f"{commit}:params.yaml").encode())
    return kept | SHARE_OF_CORES == dict(params) | SHARE_OF_CORES


def find_experiment(base: Base, name: str) -> str:
    """Return the commit of an experiment, or "" if there is none of this name."""
    ref = experiment_ref(base, name)
    return run_git(base.root, "rev-parse", "--verify", "--quiet", ref, check=False)


@contextmanager
def open_workspace(base: Base, name: str, changes: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the workspace of an experiment, with its params written.

    If the block ends well, the experiment is saved and the workspace removed. Otherwise the
    workspace stays, and the next run resumes in it. Runs of the same name wait for each other.
    """
    workspace = base.root / FOLDER / name
    with work_lock(base.root, f"experiment {name}"):
        with worktree_lock(base.root):
            prepare_worktree(base, workspace)
        write_params(base.root / "params.yaml", workspace / "params.yaml", changes)
        params = apply_changes(read_yaml(base.root / "params.yaml"), changes)
        link_user_data(base.root, workspace, params)
        yield workspace
        with worktree_lock(base.root):
            rename_replaced(base, name, params)
            save_experiment(workspace, name)
            if not is_done(base, name, params):
                raise StageError(
                    f"dvc exp save recorded no experiment {name} with these params:"
                    f" look into its workspace {workspace}"
                )
            remove_worktree(base.root, workspace)


def rename_replaced(base: Base, name: str, params: Mapping[str, Any]) -> None:
    """Rename an experiment with other params or code that `name` would replace.

    It becomes NAME-COMMIT, with the first digits of its own commit.
    """
    commit = find_experiment(base, name)
    if commit and not is_done(base, name, params):
        run_git(base.root, "update-ref", experiment_ref(base, f"{name}-{commit[:7]}"), commit)


def run_experiment(
    base: Base,
    name: str,
    changes: Mapping[str, Any],
    on_line: Callable[[str], None] = print,
    pull: bool = False,
) -> float:
    """Run all stages of an experiment and saves it.

    Args:
        base: What it starts from.
        name: Its name.
        changes: Params by dotted key.
        on_line: Called with every line that the stages print.
        pull: Fetch results that others have computed from DVC's remote.

    Returns:
        The seconds that its stages took.

    Raises:
        StageError: A stage failed, or the experiment could not be saved.
    """
    with open_workspace(base, name, changes) as workspace:
        start = time.monotonic()
        with Worker(workspace) as worker:
            plan = worker.plan([], on_line)
            for stage in plan.stages:
                request = StageRequest(stage, pull=pull)
                result = bring_up_to_date(request, worker, base.root, plan.digests[stage], on_line)
                on_line(f"{stage}: {result.outcome}")
        seconds = time.monotonic() - start
        copy_pages(base.root, workspace, name)
    return seconds


def save_experiment(workspace: Path, name: str) -> None:
    """Make DVC record the workspace as an experiment."""
    arguments = ["save", "--force", "--name", name]
    if (workspace / METRICS).exists():
        arguments += ["--include-untracked", METRICS]
    run_dvc_exp(workspace, *arguments)


def check_sharing(root: Path, remote: str) -> None:
    """Check that experiments can be pushed.

    Raises:
        StageError: There is no git remote of that name, or no default DVC remote.
    """
    from dvc.repo import Repo

    if not run_git(root, "remote", "get-url", remote, check=False):
        raise StageError(f"there is no git remote {remote}: run git remote add {remote} URL")
    with Repo(str(root)) as repo:
        if not repo.config["core"].get("remote"):
            raise StageError(
                "DVC has no default remote to share files through:"
                " run dvc remote add --default NAME URL"
            )


def push_experiments(root: Path, remote: str, names: Sequence[str]) -> None:
    """Push experiments to a git remote, their files and run cache to DVC's remote."""
    if names:
        run_dvc_exp(root, "push", "--force", "--run-cache", remote, *names)


def run_dvc_exp(folder: Path, *arguments: str) -> None:
    """Run a command of `dvc exp`, and retries it if it fails."""
    command = [sys.executable, "-m", "dvc", "exp", *arguments]
    environment = dvc_environment(folder) | fallback_identity(folder)
    for attempt in range(DVC_TRIES):
        if attempt:
            time.sleep(DVC_RETRY_DELAY)
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        if not result.returncode:
            return
        if result.returncode < 0:  # a killed command leaves no state to retry from
            raise StageError(f"dvc exp {arguments[0]} {describe_exit(result.returncode)}")
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    reason = errors[0].removeprefix("ERROR: ") if errors else f"exit code {result.returncode}"
    raise StageError(f"dvc exp {arguments[0]}: {reason}")
