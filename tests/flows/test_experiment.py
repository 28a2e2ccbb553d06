"""Experiments in workspaces of their own, with real git, DVC and processes in a toy repository."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from flows.experiments import experiment
from tasks.experiments import History
from tasks.runtime.stage import StageError
from tests.flows.toy import ROOT, Toy, gone, wait_for


@pytest.fixture
def committed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy as a user has it who never told git a name: its stages committed, nothing run yet."""
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    who = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    for words in (["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=toy.path, env={**os.environ, **who}, check=True)
    return toy


def git(toy: Toy, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=toy.path, check=True, capture_output=True, text=True
    ).stdout.strip()


def names(toy: Toy) -> set[str]:
    return set(History(toy.path, str).experiments())


def test_it_runs_beside_the_checkout_and_is_kept(committed: Toy):
    said: list[str] = []
    base = experiment.base(committed.path)
    before = git(committed, "status", "--porcelain")
    experiment.run(base, "seven", {"train": 7}, said.append)
    assert experiment.done(
        base, "seven", json.loads((committed.path / "params.yaml").read_text()) | {"train": 7}
    )
    assert not experiment.done(
        base, "seven", json.loads((committed.path / "params.yaml").read_text())
    )
    assert (
        git(committed, "status", "--porcelain") == before
        and not (committed.path / "models").exists()
    ), "the checkout is as it was"
    assert (
        git(committed, "worktree", "list").count("\n") == 0
        and not (committed.path / experiment.FOLDER / "seven").exists()
    )
    assert "words of train" in said and "train: ran" in said
    assert "seven" in committed.dvc("exp", "show", "--md"), "DVC knows it"
    assert (
        json.loads(git(committed, "show", f"{experiment.ref(base, 'seven')}:reports/metrics.json"))[
            0
        ]
        == 1
    )
    # What it made is in the cache that all share: the same params here have nothing to run.
    committed.params(train=7)
    assert "Running" not in committed.dvc("repro", "train")


def test_what_is_uncommitted_belongs_to_it(committed: Toy):
    stage = committed.path / "stage.py"
    stage.write_text(stage.read_text() + "\n# another line\n")
    committed.params(report=3)
    base = experiment.base(committed.path)
    experiment.run(base, "dirty", {"train": 2}, lambda line: None)
    found = experiment.ref(base, "dirty")
    assert "# another line" in git(committed, "show", f"{found}:stage.py")
    assert json.loads(git(committed, "show", f"{found}:params.yaml"))["report"] == 3
    wanted = json.loads((committed.path / "params.yaml").read_text()) | {"train": 2}
    assert experiment.done(base, "dirty", wanted)
    stage.write_text(stage.read_text() + "# and one more\n")
    assert not experiment.done(experiment.base(committed.path), "dirty", wanted), (
        "other code is another experiment"
    )


def test_an_experiment_that_would_be_replaced_stays_under_another_name(committed: Toy):
    (committed.path / "params.yaml").touch()  # newer than git knows, and the same
    base = experiment.base(committed.path)
    for value in (1, 1, 2):
        experiment.run(base, "again", {"train": value}, lambda line: None)
    kept = names(committed)
    assert len(kept) == 2 and "again" in kept, "the second time nothing was replaced"
    (other,) = kept - {"again"}
    assert other.startswith("again-")
    assert (
        json.loads(git(committed, "show", f"{experiment.ref(base, other)}:params.yaml"))["train"]
        == 1
    )


def test_a_worktree_finds_a_remote_where_the_checkout_does(committed: Toy, tmp_path):
    committed.dvc("remote", "add", "--default", "store", "../a store")
    workspace = committed.path / experiment.FOLDER / "elsewhere"
    experiment.prepare(experiment.base(committed.path), workspace)
    assert f"url = {tmp_path / 'a store'}" in (workspace / ".dvc/config.local").read_text()


def test_two_of_one_name_take_turns(committed: Toy):
    base, failed, said = experiment.base(committed.path), [], []

    def one() -> None:
        try:
            experiment.run(base, "twice", {"train": 8}, said.append)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and names(committed) == {"twice"}
    assert said.count("words of train") == 1


def test_a_failure_is_a_sentence_and_the_next_try_goes_on(committed: Toy):
    base = experiment.base(committed.path)
    workspace = committed.path / experiment.FOLDER / "luck"
    (workspace.parent).mkdir(parents=True)
    experiment.prepare(base, workspace)
    (workspace / "knobs").mkdir()
    (workspace / "knobs/fail-evaluate").write_text("no luck: set luck to 1")
    with pytest.raises(StageError, match=r"^evaluate: no luck: set luck to 1$"):
        experiment.run(base, "luck", {"train": 9}, lambda line: None)
    assert "luck" not in names(committed) and (workspace / "models/run").exists(), (
        "what was done is still there"
    )
    (workspace / "knobs/fail-evaluate").unlink()
    said: list[str] = []
    experiment.run(base, "luck", {"train": 9}, said.append)
    assert "train: unchanged" in said and "evaluate: ran" in said and "luck" in names(committed)


def test_several_at_once_lose_nothing(committed: Toy):
    base, failed = experiment.base(committed.path), []

    def one(number: int) -> None:
        try:
            experiment.run(base, f"e{number}", {"train": number}, lambda line: None)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [], [repr(e) for e in failed]
    assert names(committed) == {f"e{number}" for number in range(6)}


def test_a_killed_one_leaves_no_process_and_goes_on(committed: Toy):
    base = experiment.base(committed.path)
    workspace = committed.path / experiment.FOLDER / "slow"
    experiment.prepare(base, workspace)
    (workspace / "knobs").mkdir()
    (workspace / "knobs/slow-train").touch()
    program = (
        "import sys, pathlib; from flows.experiments import experiment; "
        f"experiment.run(experiment.base(pathlib.Path({str(committed.path)!r})), 'slow', {{'train': 5}})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pids = workspace / "knobs/pids"
    wait_for(lambda: pids.exists() and pids.read_text().count(" ") == 1, "the slow stage to start")
    import psutil

    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gone(family)
    (workspace / "knobs/slow-train").unlink()
    experiment.run(base, "slow", {"train": 5}, lambda line: None)
    assert "slow" in names(committed)


KILLED = """
import os, pathlib, signal, sys

first = pathlib.Path(__file__).with_name("killed")
if sys.orig_argv[1:5] == ["-m", "dvc", "exp", "save"] and not first.exists():
    from dvc.repo.experiments.executor.local import WorkspaceExecutor

    def cleanup(*_):
        first.touch()
        os.kill(os.getpid(), signal.SIGTERM)

    WorkspaceExecutor.cleanup = cleanup
"""
"""A sitecustomize that has the first `dvc exp save` terminated when the experiment is kept and the worktree not yet back at its base."""


def test_a_save_that_was_terminated_is_neither_tried_again_nor_kept_twice(
    committed: Toy, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(experiment, "DELAY", 0.0)
    base = experiment.base(committed.path)
    with pytest.raises(StageError, match="dvc exp save was killed by SIGTERM"):
        experiment.run(base, "cut", {"train": 5}, lambda line: None)
    assert (tmp_path / "killed").exists() and names(committed) == {"cut"}
    assert (
        git(committed, "-C", str(experiment.FOLDER / "cut"), "rev-parse", "HEAD") != base.commit
    ), "the state that this is about"
    experiment.run(base, "cut", {"train": 5}, lambda line: None)
    experiment.run(base, "next", {"train": 6}, lambda line: None)
    assert (
        names(committed) == {"cut", "next"}
        and not (committed.path / experiment.FOLDER / "cut").exists()
    )


def test_a_repository_without_a_commit_is_one_sentence(toy: Toy):
    with pytest.raises(StageError, match="has no commit yet: commit first"):
        experiment.base(toy.path)
