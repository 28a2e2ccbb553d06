"""Experiments in worktrees, with real git, DVC and processes in a toy repository."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial

import psutil
import pytest

from flows.experiments import experiment
from flows.experiments.experiment import experiment_ref, is_done, run_experiment
from flows.experiments.worktree import FOLDER, link_user_data, prepare_worktree, read_base
from tasks.experiments import RevisionHistory
from tasks.runtime.stage import StageError
from tests.flows.toy import ROOT, Toy, wait_for, wait_until_gone


@pytest.fixture
def committed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A committed toy repository of a user without a git identity; no stage has run."""
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    toy.commit()
    return toy


def names(toy: Toy) -> set[str]:
    return set(RevisionHistory(toy.path, str).experiments())


def ignore(line: str) -> None: ...


def run_together(bodies: Sequence[Callable[[], object]]) -> list[Exception]:
    """Run each body in a thread, and return the exceptions."""
    errors: list[Exception] = []

    def run(body: Callable[[], object]) -> None:
        try:
            body()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_an_experiment_is_saved_and_leaves_the_checkout_unchanged(committed: Toy):
    lines: list[str] = []
    base = read_base(committed.path)
    before = committed.git("status", "--porcelain")
    run_experiment(base, "seven", {"train": 7}, lines.append)
    params = json.loads((committed.path / "params.yaml").read_text())
    assert is_done(base, "seven", params | {"train": 7})
    assert not is_done(base, "seven", params)
    assert committed.git("status", "--porcelain") == before
    assert not (committed.path / "models").exists()
    assert committed.git("worktree", "list").count("\n") == 0
    assert not (committed.path / FOLDER / "seven").exists()
    assert "words of train" in lines and "train: ran" in lines
    assert "seven" in committed.dvc("exp", "show", "--md"), "DVC finds it"
    metrics = committed.git("show", f"{experiment_ref(base, 'seven')}:reports/metrics.json")
    assert json.loads(metrics)[0] == 1
    # Its outputs are in the shared cache: the same params need no run in the checkout.
    committed.params(train=7)
    assert "Running" not in committed.dvc("repro", "train")


def test_uncommitted_changes_are_included(committed: Toy):
    stage = committed.path / "stage.py"
    stage.write_text(stage.read_text() + "\n# another line\n")
    committed.params(report=3)
    base = read_base(committed.path)
    run_experiment(base, "dirty", {"train": 2}, ignore)
    ref = experiment_ref(base, "dirty")
    assert "# another line" in committed.git("show", f"{ref}:stage.py")
    assert json.loads(committed.git("show", f"{ref}:params.yaml"))["report"] == 3
    params = json.loads((committed.path / "params.yaml").read_text()) | {"train": 2}
    assert is_done(base, "dirty", params)
    stage.write_text(stage.read_text() + "# and one more\n")
    assert not is_done(read_base(committed.path), "dirty", params), "other code"


def test_a_replaced_experiment_is_renamed(committed: Toy):
    (committed.path / "params.yaml").touch()  # a newer timestamp, but no change
    base = read_base(committed.path)
    for value in (1, 1, 2):
        run_experiment(base, "again", {"train": value}, ignore)
    kept = names(committed)
    assert len(kept) == 2 and "again" in kept, "the second run replaces nothing"
    (other,) = kept - {"again"}
    assert other.startswith("again-")
    params = committed.git("show", f"{experiment_ref(base, other)}:params.yaml")
    assert json.loads(params)["train"] == 1


def test_a_worktree_resolves_remotes_as_the_checkout_does(committed: Toy, tmp_path):
    committed.dvc("remote", "add", "--default", "store", "../a store")
    worktree = committed.path / FOLDER / "elsewhere"
    prepare_worktree(read_base(committed.path), worktree)
    assert f"url = {tmp_path / 'a store'}" in (worktree / ".dvc/config.local").read_text()


def test_two_runs_of_one_name_wait_for_each_other(committed: Toy):
    base, lines = read_base(committed.path), []
    run = partial(run_experiment, base, "twice", {"train": 8}, lines.append)
    assert run_together([run, run]) == []
    assert names(committed) == {"twice"}
    assert lines.count("words of train") == 1


def test_after_a_failure_the_next_run_resumes(committed: Toy):
    base = read_base(committed.path)
    workspace = committed.path / FOLDER / "luck"
    prepare_worktree(base, workspace)
    (workspace / "knobs").mkdir()
    (workspace / "knobs/fail-evaluate").write_text("no luck: set luck to 1")
    with pytest.raises(StageError, match=r"^evaluate: no luck: set luck to 1$"):
        run_experiment(base, "luck", {"train": 9}, ignore)
    assert "luck" not in names(committed)
    assert (workspace / "models/run").exists(), "finished stages are kept"
    (workspace / "knobs/fail-evaluate").unlink()
    lines: list[str] = []
    run_experiment(base, "luck", {"train": 9}, lines.append)
    assert "train: unchanged" in lines and "evaluate: ran" in lines
    assert "luck" in names(committed)


def test_several_at_the_same_time_lose_nothing(committed: Toy):
    base = read_base(committed.path)
    errors = run_together(
        [
            lambda number=number: run_experiment(base, f"e{number}", {"train": number}, ignore)
            for number in range(4)
        ]
    )
    assert errors == []
    assert names(committed) == {f"e{number}" for number in range(4)}


def test_a_killed_run_leaves_no_process_and_resumes(committed: Toy):
    base = read_base(committed.path)
    workspace = committed.path / FOLDER / "slow"
    prepare_worktree(base, workspace)
    (workspace / "knobs").mkdir()
    (workspace / "knobs/slow-train").touch()
    program = (
        "import pathlib\n"
        "from flows.experiments.experiment import run_experiment\n"
        "from flows.experiments.worktree import read_base\n"
        f"base = read_base(pathlib.Path({str(committed.path)!r}))\n"
        "run_experiment(base, 'slow', {'train': 5})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pids = workspace / "knobs/pids"
    wait_for(lambda: pids.exists() and pids.read_text().count(" ") == 1, "the slow stage to start")
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(family)
    (workspace / "knobs/slow-train").unlink()
    run_experiment(base, "slow", {"train": 5}, ignore)
    assert "slow" in names(committed)


TERMINATED_SAVE = """
import os, pathlib, signal, sys

marker = pathlib.Path(__file__).with_name("terminated")
if sys.orig_argv[1:5] == ["-m", "dvc", "exp", "save"] and not marker.exists():
    from dvc.repo.experiments.executor.local import WorkspaceExecutor

    def cleanup(*_):
        marker.touch()
        os.kill(os.getpid(), signal.SIGTERM)

    WorkspaceExecutor.cleanup = cleanup
"""
"""A sitecustomize that terminates the first `dvc exp save`.

At that moment the experiment is recorded, and the worktree is not back at its base yet.
"""


def test_a_terminated_save_is_neither_retried_nor_recorded_twice(
    committed: Toy, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sitecustomize.py").write_text(TERMINATED_SAVE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(experiment, "DVC_RETRY_DELAY", 0.0)
    base = read_base(committed.path)
    with pytest.raises(StageError, match="dvc exp save was killed by SIGTERM"):
        run_experiment(base, "cut", {"train": 5}, ignore)
    assert (tmp_path / "terminated").exists() and names(committed) == {"cut"}
    worktree = committed.path / FOLDER / "cut"
    head = committed.git("-C", str(worktree), "rev-parse", "HEAD")
    assert head != base.commit, "the state under test"
    run_experiment(base, "cut", {"train": 5}, ignore)
    run_experiment(base, "next", {"train": 6}, ignore)
    assert names(committed) == {"cut", "next"} and not worktree.exists()


def test_a_repository_without_a_commit_is_an_error(toy: Toy):
    with pytest.raises(StageError, match="has no commits; commit first"):
        read_base(toy.path)


def test_user_data_in_a_tracked_folder_is_linked_into_every_experiment(tmp_path):
    root, worktree = tmp_path / "root", tmp_path / "worktree"
    for checkout in (root, worktree):
        (checkout / "data/own").mkdir(parents=True)
        (checkout / "data/own/.gitignore").write_text("*")
    (root / "data/own/cats").mkdir()
    (root / "data/own/cats/1.png").write_text("a cat")
    (worktree / "data/own/stale").mkdir()
    for _ in range(2):  # the second time in the workspace of an interrupted run
        link_user_data(root, worktree, {"dataset": {"source": "data/own"}})
    files = {path.relative_to(worktree / "data/own") for path in worktree.rglob("data/own/**/*")}
    assert {str(file) for file in files} == {".gitignore", "cats", "cats/1.png"}
    assert (worktree / "data/own/cats/1.png").read_text() == "a cat"


def test_paths_outside_the_checkout_replace_no_folder(tmp_path):
    """A relative path leads to another folder from a worktree, which is deep in the checkout."""
    root = tmp_path / "of/several/users/checkout"
    worktree, photos = root / FOLDER / "x", root.parent / "photos"
    for folder in (worktree / ".dvc", root / "data", tmp_path / "data", photos):
        folder.mkdir(parents=True)
        (folder / "file").write_text(str(folder))
    before = {path: path.read_text() for path in root.rglob("file")}
    for source in (".", "..", ".dvc", "../../..", "../../../../data"):
        with pytest.raises(StageError, match="is not found from the workspace of an experiment"):
            link_user_data(root, worktree, {"dataset": {"source": source}})
    assert {path: path.read_text() for path in root.rglob("file")} == before
    for _ in range(2):
        link_user_data(root, worktree, {"dataset": {"source": "../photos"}})
    assert (worktree / "../photos/file").read_text() == str(photos)
