"""Two checkouts that share a git remote and a DVC remote, as in docs/guide/team.md."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.experiments.experiment import check_sharing, run_experiment
from flows.experiments.worktree import read_base
from tasks.experiments import RevisionHistory
from tasks.runtime.stage import StageError
from tests.flows.test_pipeline import read, task_states
from tests.flows.toy import AUTHOR, ROOT, STAGES, Run, Toy, wait_for

TRAIN = {
    "name": "train",
    "entrypoint": "flows/train.py:train",
    "parameters": {"share": "origin"},
    "work_pool": {"name": "team"},
}
PULL = {
    "prefect.deployments.steps.set_working_directory": {"directory": "{{ $EPISODIC_CHECKOUT }}"}
}
DEPLOYMENTS = {"name": "toy", "prefect-version": "3", "pull": [PULL], "deployments": [TRAIN]}
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


@pytest.fixture
def first(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The first checkout, pushed to both remotes after a run."""
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    toy.environment |= AUTHOR
    toy.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    toy.dvc("repro")
    toy.commit()
    origin = tmp_path / "origin"
    toy.git("init", "-q", "--bare", "--initial-branch=main", str(origin))
    toy.git("remote", "add", "origin", str(origin))
    toy.git("push", "-q", "origin", "HEAD:main")
    toy.dvc("push", "--run-cache")
    return toy


@pytest.fixture
def second(first: Toy, tmp_path: Path) -> Toy:
    """The second checkout, with an empty cache."""
    path = tmp_path / "another machine"
    first.git("clone", "-q", str(tmp_path / "origin"), str(path))
    (path / "knobs").mkdir()
    return Toy(path)


def test_a_worker_in_another_checkout(first: Toy, second: Toy, api: str):
    """The worker fetches what others have computed, runs the rest, and pushes its results."""
    environment = first.environment | {
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    (first.path / "prefect.yaml").write_text(json.dumps(DEPLOYMENTS))
    for toy in (first, second):
        (toy.path / "flows").symlink_to(ROOT / "flows")
    for command in (["work-pool", "create", "team", "--type", "process"], ["deploy", "--all"]):
        done = subprocess.run(
            [*PREFECT, *command], cwd=first.path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    worker = Run(
        second,
        [*PREFECT, "worker", "start", "--pool", "team"],
        environment | {"EPISODIC_CHECKOUT": str(second.path)},
    )
    try:
        (deployment,) = [
            deployment["id"]
            for deployment in read(api, "deployments")
            if deployment["work_pool_name"] == "team"
        ]
        run = httpx.post(
            f"{api}/deployments/{deployment}/create_flow_run",
            json={"parameters": {"name": "seven", "overrides": {"train": 7}}},
        ).json()["id"]

        def state() -> dict:
            return httpx.get(f"{api}/flow_runs/{run}").json()["state"]

        finished = ("COMPLETED", "FAILED", "CRASHED")
        wait_for(lambda: state()["type"] in finished, "the worker's run", 120)
        assert state()["type"] == "COMPLETED", (state(), worker.output)
    finally:
        os.killpg(worker.process.pid, signal.SIGINT)
        worker.wait()
    cached = {"download": "Cached", "episodes": "Cached"}
    assert task_states(api, run) == {**dict.fromkeys(STAGES, "Completed"), **cached}
    assert "words of download" not in worker.output, "its inputs came from the remote"

    assert set(RevisionHistory(first.path, str).experiments()) == set()
    first.dvc("exp", "pull", "origin", "seven")
    assert set(RevisionHistory(first.path, str).experiments()) == {"seven"}
    lines: list[str] = []
    run_experiment(read_base(first.path), "mine", {"train": 7}, lines.append, pull=True)
    # Metrics are in git alone and in no DVC remote, so that their stage runs once more.
    assert [line for line in lines if line.startswith("words of")] == ["words of evaluate"], lines


def test_sharing_needs_both_remotes(first: Toy):
    first.git("remote", "add", "backup", "ext::sh -c exit% 1")
    for remote in (
        "upstream",
        "ext::sh -c touch% pwned",
        "--upload-pack=touch pwned",
        "--all",
        str(first.path),
        "../another machine",
        "origin\nbackup",
    ):
        with pytest.raises(
            StageError,
            match=r"^the git remote '.* does not exist; use a name that git remote lists",
        ):
            check_sharing(first.path, remote)
    assert not (first.path / "pwned").exists()
    check_sharing(first.path, "origin")
    first.dvc("remote", "remove", "store")
    with pytest.raises(
        StageError,
        match="DVC has no default remote for sharing files; run dvc remote add --default",
    ):
        check_sharing(first.path, "origin")
