"""Two checkouts that share a git remote and a DVC remote: a worker in one of them does what was deployed from the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.experiments import experiment
from tasks.experiments import History
from tasks.runtime.stage import StageError
from tests.flows.test_pipeline import found, task_states
from tests.flows.toy import STAGES, Run, Toy, wait_for

TRAIN = {
    "name": "train",
    "entrypoint": "flows/train.py:train",
    "parameters": {"share": "origin"},
    "work_pool": {"name": "team"},
}
PULL = {
    "prefect.deployments.steps.set_working_directory": {"directory": "{{ $EPISODIC_CHECKOUT }}"}
}
DEPLOYED = {"name": "toy", "prefect-version": "3", "pull": [PULL], "deployments": [TRAIN]}


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def here(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The first checkout, pushed to both remotes after a run."""
    for role in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{role}_{what}", "a@b")
    toy.environment |= {key: value for key, value in os.environ.items() if key.startswith("GIT_")}
    toy.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    toy.dvc("repro")
    git(toy.path, "add", "-A")
    git(toy.path, "commit", "-qm", "run")
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "origin")], check=True)
    git(toy.path, "remote", "add", "origin", str(tmp_path / "origin"))
    git(toy.path, "push", "-q", "origin", "HEAD:main")
    git(tmp_path / "origin", "symbolic-ref", "HEAD", "refs/heads/main")
    toy.dvc("push", "--run-cache")
    return toy


@pytest.fixture
def there(here: Toy, tmp_path: Path) -> Toy:
    """The second one, with nothing in its cache."""
    git(tmp_path, "clone", "-q", str(tmp_path / "origin"), "another machine")
    (tmp_path / "another machine" / "knobs").mkdir()
    return Toy(tmp_path / "another machine")


def test_a_worker_in_another_checkout(here: Toy, there: Toy, api: str):
    """It takes inputs from the remote, runs what nobody has run, and pushes what it made; here that is not trained again."""
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    environment = here.environment | {
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    (here.path / "prefect.yaml").write_text(json.dumps(DEPLOYED))
    (here.path / "flows").symlink_to(Path(experiment.__file__).parents[1])
    for words in (["work-pool", "create", "team", "--type", "process"], ["deploy", "--all"]):
        ended = subprocess.run(
            [*prefect, *words], cwd=here.path, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    (there.path / "flows").symlink_to(Path(experiment.__file__).parents[1])
    worker = Run(
        there,
        [*prefect, "worker", "start", "--pool", "team"],
        environment | {"EPISODIC_CHECKOUT": str(there.path)},
    )
    try:
        (deployment,) = [
            d["id"] for d in found(api, "deployments") if d["work_pool_name"] == "team"
        ]
        asked = {"parameters": {"name": "seven", "more": {"train": 7}}}
        run = httpx.post(f"{api}/deployments/{deployment}/create_flow_run", json=asked).json()["id"]

        def state() -> dict:
            return httpx.get(f"{api}/flow_runs/{run}").json()["state"]

        wait_for(
            lambda: state()["type"] in ("COMPLETED", "FAILED", "CRASHED"), "the worker's run", 120
        )
        assert state()["type"] == "COMPLETED", (state(), worker.output)
    finally:
        os.killpg(worker.process.pid, signal.SIGINT)
        worker.wait()
    cached = {"download": "Cached", "episodes": "Cached"}
    assert task_states(api, run) == {**dict.fromkeys(STAGES, "Completed"), **cached}
    assert "words of download" not in worker.output, "its inputs came from the remote"

    assert set(History(here.path, str).experiments()) == set()
    here.dvc("exp", "pull", "origin", "seven")
    assert set(History(here.path, str).experiments()) == {"seven"}
    said: list[str] = []
    experiment.run(experiment.base(here.path), "mine", {"train": 7}, said.append, pull=True)
    # What a stage keeps in git alone (its metrics) is in no remote of DVC's; that stage runs once more.
    assert [line for line in said if line.startswith("words of")] == ["words of evaluate"], (
        "\n".join(said)
    )


def test_without_remotes_there_is_nothing_to_share_through(toy: Toy, here: Toy):
    with pytest.raises(
        StageError, match="there is no git remote upstream: git remote add upstream URL"
    ):
        experiment.sharing(here.path, "upstream")
    here.dvc("remote", "remove", "store")
    with pytest.raises(
        StageError,
        match="DVC has no default remote to share files through: dvc remote add --default NAME URL",
    ):
        experiment.sharing(here.path, "origin")
