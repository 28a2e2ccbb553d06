"""A sweep as a user runs it: real processes in a toy repository."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess

import psutil
import pytest

from tasks.experiments import History
from tests.flows.test_pipeline import found, last_run
from tests.flows.toy import Toy, gone, wait_for

FILE = "conf/sweeps/tiny.yaml"


@pytest.fixture
def committed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    toy.environment |= {key: value for key, value in os.environ.items() if key.startswith("GIT_")}
    (toy.path / "conf/sweeps").mkdir(parents=True)
    (toy.path / FILE).write_text(
        json.dumps({"grid": {"train": [1, "bad", 3, 4, 5, 6], "evaluate": [1, 2]}})
    )
    for words in (["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=toy.path, check=True)
    return toy


def experiments(toy: Toy) -> set[str]:
    return set(History(toy.path, str).experiments())


def test_twelve_points_three_at_a_time(committed: Toy, api: str):
    """Two of them fail and do not stop the others; what is done is not run again; what failed is, and the reason stands at the end."""
    good = {f"tiny-train{t}-evaluate{e}" for t in (1, 3, 4, 5, 6) for e in (1, 2)}
    first = committed.start(FILE, "--at-once", "3", module="flows.sweep", PREFECT_API_URL=api)
    assert first.wait() == 1, first.output
    assert experiments(committed) == good, first.output
    lines = first.output.splitlines()
    assert lines[-1].startswith(
        "error: 2 of 12 experiments failed: tiny-trainbad-evaluate1: train: bad is no value; tiny-trainbad-evaluate2:"
    )
    assert (
        sum(" done " in line for line in lines if line.startswith("tiny-")) == 10
        and "Traceback" not in first.output
    )
    assert "NoneType" not in first.output, (
        "as where a failure that is a state is logged with the exception that it is not"
    )
    run = last_run(api)
    assert run["state"]["type"] == "FAILED"
    (table,) = [
        a
        for a in found(api, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
        if a["key"] == "tiny-sweep"
    ]
    states = {row["experiment"]: row["state"] for row in json.loads(table["data"])}
    assert {name for name, state in states.items() if state == "done"} == good and len(states) == 12

    (committed.path / FILE).write_text(
        json.dumps({"grid": {"train": [1, 3, 4, 5, 6], "evaluate": [1, 2]}})
    )
    second = committed.start(FILE, "--at-once", "1", module="flows.sweep", PREFECT_API_URL=api)
    assert second.wait() == 0, second.output
    assert second.output.count("done before") >= 10 and "words of" not in second.output, (
        "nothing ran again"
    )
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=committed.path, capture_output=True, text=True, check=True
    ).stdout
    assert listed.count("tiny-") == 2, "those of the two that failed are there to go on in"


def test_an_interrupted_sweep_leaves_no_process_and_goes_on(committed: Toy, api: str):
    run = committed.start(FILE, "--at-once", "2", module="flows.sweep", PREFECT_API_URL=api)
    wait_for(lambda: len(experiments(committed)) >= 2, "two experiments to be done", 120)
    family = [
        psutil.Process(run.process.pid),
        *psutil.Process(run.process.pid).children(recursive=True),
    ]
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.wait() == 143, run.output
    gone(family)
    before = experiments(committed)
    again = committed.start(FILE, "--at-once", "2", module="flows.sweep", PREFECT_API_URL=api)
    assert again.wait() == 1
    assert len(experiments(committed)) == 10
    assert all(f"{name}" in again.output for name in before) and again.output.count(
        "done before"
    ) >= len(before)


def test_mistakes_are_told_before_anything_runs(committed: Toy):
    (committed.path / "bad.yaml").write_text("gird: {}")
    for words, said in (
        (["bad.yaml"], "error: bad.yaml: unknown key gird - did you mean grid?"),
        (["nowhere.yaml"], "error: there is no nowhere.yaml"),
    ):
        ended = committed.start(*words, module="flows.sweep")
        assert ended.wait() == 1 and ended.output.startswith(said), ended.output
    assert committed.start(FILE, "--at-once", "0", module="flows.sweep").wait() == 2
    listed = committed.start(FILE, "--dry-run", module="flows.sweep")
    assert (
        listed.wait() == 0
        and listed.output.splitlines()[0] == "tiny-train1-evaluate1 train=1 evaluate=1"
    )
    assert experiments(committed) == set()


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_local_cluster_runs_the_points(committed: Toy, api: str, runner: str):
    """The same experiments and the same table as with threads, and nothing is left behind."""
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        pytest.skip(f"prefect-{runner} is not installed: pip install prefect-{runner}")
    run = committed.start(
        FILE, "--at-once", "3", "--runner", runner, module="flows.sweep", PREFECT_API_URL=api
    )
    wait_for(
        lambda: len(experiments(committed)) >= 2 or run.process.poll() is not None,
        "two experiments",
        180,
    )
    family = [
        psutil.Process(run.process.pid),
        *psutil.Process(run.process.pid).children(recursive=True),
    ]
    assert run.wait() == 1, run.output
    assert len(experiments(committed)) == 10, run.output
    assert (
        sum(" done " in line for line in run.output.splitlines() if line.startswith("tiny-")) == 10
    )
    assert run.output.splitlines()[-1].startswith(
        "error: 2 of 12 experiments failed: tiny-trainbad-evaluate1: train: bad is no value;"
    )
    gone(family)
