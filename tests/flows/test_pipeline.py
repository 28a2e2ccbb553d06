"""The flow `pipeline` as a user runs it: real processes in a toy repository."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from flows.pipeline.__main__ import main
from flows.server.server import Server
from tests.flows.toy import STAGES, Toy, wait_for, wait_until_gone

CACHED = dict.fromkeys(STAGES, "Cached")


def read(api: str, kind: str, **filters: object) -> list[dict]:
    """Return objects of Prefect's API, such as `flow_runs`."""
    response = httpx.post(f"{api}/{kind}/filter", json={**filters, "limit": 200})
    response.raise_for_status()
    return response.json()


def task_states(api: str, run: str) -> dict[str, str]:
    tasks = read(api, "task_runs", flow_runs={"id": {"any_": [run]}})
    return {task["name"]: task["state_name"] for task in tasks}


def last_run(api: str) -> dict:
    return read(api, "flow_runs", sort="START_TIME_DESC")[0]


def test_flow_runs_the_stages_that_dvc_selects(toy: Toy, api: str):
    """Stages are Completed or Cached, in the table and in Prefect; and `dvc repro` agrees."""
    toy.dvc("repro", "download")
    first = toy.start(PREFECT_API_URL=api)
    assert first.wait() == 0, first.output
    states = {**dict.fromkeys(STAGES, "Completed"), "download": "Cached"}
    assert first.states() == states
    assert list(first.states()) == STAGES, "the order of the graph, not of the file"
    assert "words of train" in first.output and '"event"' not in first.output
    assert "steps: 3 of 3 (100 %), 2 per second, 1 s left, loss 0.5" in first.output
    run = last_run(api)
    wait_for(lambda: task_states(api, run["id"]) == states, "the states to reach the database")
    artifacts = read(api, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert {a["key"]: a["data"] for a in artifacts if a["type"] == "progress"} == {
        f"{stage}-steps": 100.0 for stage in STAGES[1:]
    }
    (curve,) = [artifact for artifact in artifacts if artifact["type"] == "markdown"]
    assert curve["key"] == "learning-curve" and "loss 0.5" in curve["data"]
    assert "data:image/svg+xml;base64," in curve["data"]
    assert toy.dvc("status").strip() == "Data and pipelines are up to date."
    assert "Running" not in toy.dvc("repro")


def test_a_failure_is_an_error_message(toy: Toy, api: str):
    """Later stages do not run. A temporary failure is retried."""
    reason = "train: iteration 3 is not finite: lower train.meta_lr"
    toy.knob("exit-download", "75")
    toy.knob("fail-train", reason.removeprefix("train: "))
    run = toy.start("--stage", "evaluate", PREFECT_API_URL=api)
    assert run.wait() == 1
    assert run.states() == {
        "download": "Completed",
        "episodes": "Completed",
        "train": "Failed",
        "evaluate": "not run",
    }
    assert run.output.splitlines()[-1] == f"error: {reason}"
    assert "Traceback" not in run.output
    assert run.output.count("Retry 1/") == 1
    state = last_run(api)["state"]
    assert (state["type"], state["message"]) == ("FAILED", reason)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_process(toy: Toy, api: str, number: int, code: int):
    toy.knob("slow-train", "")
    run = toy.start(PREFECT_API_URL=api)
    toy.slow_pids()
    family = run.family()
    assert len(family) >= 4, "the flow, its DVC process, the stage and its child"
    os.killpg(run.process.pid, number)  # as a terminal does
    assert run.wait() == code, run.output
    wait_until_gone(family)
    assert "Traceback" not in run.output
    assert last_run(api)["state"]["type"] == "CRASHED"


def test_runs_wait_for_each_other(toy: Toy, api: str):
    """A second flow waits for the first; both wait for a `dvc repro` in a shell."""
    toy.knob("slow-train", "")
    shell = toy.start(
        "repro", module="dvc", PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    toy.slow_pids()
    first = toy.start(PREFECT_API_URL=api)
    wait_for(
        lambda: (
            "another DVC command is running in this workspace; waiting up to 300 s" in first.output
        ),
        "the first flow to wait for DVC",
    )
    second = toy.start(PREFECT_API_URL=api)
    wait_for(
        lambda: f"waiting for the run of process {first.process.pid}" in second.output,
        "the second flow to wait for the first",
    )
    toy.knob("slow-train", None)
    assert [shell.wait(), first.wait(), second.wait()] == [0, 0, 0], first.output + second.output
    assert first.states() == second.states() == CACHED


def test_a_killed_run_with_its_own_server(toy: Toy, empty_database: Path):
    """SIGKILL: all processes end with the flow's. The next run marks it as crashed and resumes."""

    def states() -> dict[str, int]:
        with closing(sqlite3.connect(toy.path / ".prefect" / "prefect.db")) as database:
            return dict(database.execute("select state_type, count(*) from flow_run group by 1"))

    (toy.path / ".prefect").mkdir()
    shutil.copy(empty_database, toy.path / ".prefect" / "prefect.db")
    toy.knob("slow-train", "")
    run = toy.start()
    toy.slow_pids()
    family = run.family()
    assert any("flows.server.server" in process.cmdline() for process in family)
    assert len(family) >= 5, "the flow, its server, its DVC process, the stage and its child"
    run.process.kill()
    run.wait()
    wait_until_gone(family)
    assert states() == {"RUNNING": 1}
    assert not toy.locked()

    toy.knob("slow-train", None)
    run = toy.start()
    process = psutil.Process(run.process.pid)
    wait_for(
        lambda: "flows.server.server" in str([child.cmdline() for child in process.children()]),
        "its server",
    )
    family = run.family()
    assert run.wait() == 0, run.output
    wait_until_gone(family)
    assert run.states() == {
        **dict.fromkeys(STAGES, "Completed"),
        "download": "Cached",
        "episodes": "Cached",
    }
    assert states() == {"CRASHED": 1, "COMPLETED": 1}
    assert toy.dvc("status").strip() == "Data and pipelines are up to date."


def test_a_killed_run_at_the_user_s_server(toy: Toy, api: str):
    """The next run on this host marks it as crashed."""
    toy.knob("slow-train", "")
    run = toy.start(PREFECT_API_URL=api)
    toy.slow_pids()
    family, killed = run.family(), last_run(api)
    run.process.kill()
    run.wait()
    wait_until_gone(family)
    toy.knob("slow-train", None)
    assert toy.start(PREFECT_API_URL=api).wait() == 0
    state = httpx.get(f"{api}/flow_runs/{killed['id']}").json()["state"]
    assert (state["type"], state["message"]) == ("CRASHED", "the process of this run was killed")
    assert "Running" not in task_states(api, killed["id"]).values()


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    server = Server(tmp_path)
    with pytest.raises(RuntimeError, match=r"^Prefect's server did not start; see .*server\.log$"):
        server.wait()
    server.stop()


def test_a_folder_without_a_repository_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1
    message = f"error: {tmp_path} is not in a DVC repository; run this in the project's checkout"
    assert capsys.readouterr().err.strip() == message
