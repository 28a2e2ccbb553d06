"""One experiment, run in a separate worktree and recorded by DVC.

`dvc exp save` records it so that `dvc exp show`, editors and tasks/compare.py find it. The
worktree is then removed. An interrupted experiment keeps its worktree, in which the next run
resumes.
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

IRRELEVANT_SETTINGS = {"processes": None}
"""Settings that affect the duration of an experiment but not its result."""

DVC_TRIES = 3
DVC_RETRY_DELAY = 10.0
"""Seconds before a retry of `dvc exp`, which fails while another DVC command is running."""


def experiment_ref(base: Base, name: str) -> str:
    """Return the Git ref under which DVC keeps an experiment."""
    return f"refs/exps/{base.commit[:2]}/{base.commit[2:]}/{name}"


def is_done(base: Base, name: str, params: Mapping[str, Any]) -> bool:
    """Whether an experiment exists with this name, the same params and the same code."""
    from tasks.experiments.lock import parse_yaml

    commit = find_experiment(base, name)
    if not commit:
        return False
    if run_git(base.root, "diff", "--name-only", commit, base.tree, "--", ".", *NOT_CODE):
        return False
    recorded = parse_yaml(run_git(base.root, "show", f"{commit}:params.yaml").encode())
    return recorded | IRRELEVANT_SETTINGS == dict(params) | IRRELEVANT_SETTINGS


def find_experiment(base: Base, name: str) -> str:
    """Return the commit of an experiment, or "" if it does not exist."""
    ref = experiment_ref(base, name)
    return run_git(base.root, "rev-parse", "--verify", "--quiet", ref, check=False)


@contextmanager
def open_workspace(base: Base, name: str, changes: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the workspace of an experiment, with its params.yaml written.

    If the block succeeds, the experiment is saved and the workspace is removed. Otherwise the
    workspace is kept, and the next run resumes in it. Runs of the same name wait for each other.
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
                    f"dvc exp save did not record the experiment {name} with these params;"
                    f" see its workspace {workspace}"
                )
            remove_worktree(base.root, workspace)


def rename_replaced(base: Base, name: str, params: Mapping[str, Any]) -> None:
    """Rename an existing experiment that `name` would replace, if its params or code differ.

    Its new name is NAME-COMMIT, with the first digits of its commit.
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
    """Run all stages of an experiment, and save it.

    Args:
        base: State of the checkout that the experiment starts from.
        name: Name of the experiment.
        changes: Settings by dotted key.
        on_line: Called with each line that the stages print.
        pull: Pull results computed elsewhere from the DVC remote.

    Returns:
        Duration of the stages in seconds.

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
    """Record the workspace as a DVC experiment."""
    arguments = ["save", "--force", "--name", name]
    if (workspace / METRICS).exists():
        arguments += ["--include-untracked", METRICS]
    run_dvc_exp(workspace, *arguments)


def check_sharing(root: Path, remote: str) -> None:
    """Check that experiments can be pushed.

    Raises:
        StageError: The git remote does not exist, or DVC has no default remote.
    """
    from dvc.repo import Repo

    # Git and DVC would also accept a URL, which can name a command (ext::), and read options.
    if remote not in run_git(root, "remote").splitlines():
        raise StageError(
            f"the git remote {remote!r} does not exist; use a name that git remote lists, or run"
            " git remote add NAME URL"
        )
    with Repo(str(root)) as repo:
        if not repo.config["core"].get("remote"):
            raise StageError(
                "DVC has no default remote for sharing files; run dvc remote add --default NAME URL"
            )


def push_experiments(root: Path, remote: str, names: Sequence[str]) -> None:
    """Push experiments to a git remote, and their files and run cache to the DVC remote."""
    if names:
        run_dvc_exp(root, "push", "--force", "--run-cache", remote, *names)


def run_dvc_exp(folder: Path, *arguments: str) -> None:
    """Run a command of `dvc exp`, and retry it if it fails."""
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
        if result.returncode < 0:  # a killed command cannot be retried
            raise StageError(f"dvc exp {arguments[0]} {describe_exit(result.returncode)}")
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    reason = errors[0].removeprefix("ERROR: ") if errors else f"exit code {result.returncode}"
    raise StageError(f"dvc exp {arguments[0]}: {reason}")
