"""Runs that `make ui` starts, with real processes in a toy repository: by a schedule and by hand, cancelled, terminated and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from history import Repository

from tests.flows.test_pipeline import CACHED, found, task_states
from tests.flows.toy import ROOT, STAGES, Run, Toy, gone, wait_for

BY_HAND = {
    "name": "by hand",
    "description": "",
    "entrypoint": "flows.pipeline.pipeline",
    "parameters": {},
}
SCHEDULED = {
    "name": "scheduled",
    "description": "",
    "entrypoint": "flows.train.train",
    "parameters": {"name": "nightly"},
    "schedules": [{"cron": "* * * * *", "timezone": "UTC", "active": True}],
    "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
}


class Served:
    """`make ui` in a toy repository that has one deployment."""

    def __init__(self, toy: Toy, deployment: dict[str, Any]):
        (toy.path / "prefect.yaml").write_text(json.dumps({"deployments": [deployment]}))
        self.toy = toy
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.run: Run = toy.start("--port", str(self.port), module="flows.ui")
        wait_for(self.deployment, "the deployment", 120)

    def deployment(self) -> str | None:
        """Its id, once it is ready."""
        try:
            return next(
                (d["id"] for d in found(self.api, "deployments") if d["status"] == "READY"), None
            )
        except httpx.HTTPError:
            return None

    def start(self) -> str:
        answers: list[httpx.Response] = []

        def created() -> bool:
            """A server whose database is busy says so and may be asked again."""
            answers.append(
                httpx.post(
                    f"{self.api}/deployments/{self.deployment()}/create_flow_run",
                    json={},
                    timeout=60,
                )
            )
            return answers[-1].status_code != 503

        wait_for(created, "the server to take a run")
        answers[-1].raise_for_status()
        return answers[-1].json()["id"]

    def state(self, run: str) -> dict[str, Any]:
        return httpx.get(f"{self.api}/flow_runs/{run}").json()["state"]

    def slow(self) -> list[psutil.Process]:
        """The processes of the run whose stage is slow now: those of the flow first."""
        pids = self.toy.slow_pids()
        stage = psutil.Process(pids[0])
        up = [stage, *stage.parents()]
        flow = up[[p.pid for p in up].index(self.run.process.pid) - 1]
        return [flow, *flow.children(recursive=True), *(psutil.Process(pid) for pid in pids)]


@pytest.fixture
def served(toy: Toy) -> Iterator[list[Served]]:
    """Where a test puts those that it starts; they end with it."""
    (toy.path / ".gitignore").write_text(".prefect/\nknobs/\nprefect.yaml\n")
    who = {
        f"GIT_{role}_{what}": "a@b"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    for words in (["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=toy.path, env=os.environ | who, check=True)
    started: list[Served] = []
    yield started
    for one in started:
        if one.run.process.poll() is None:
            os.killpg(one.run.process.pid, signal.SIGINT)
            one.run.wait()


def test_cancelled_terminated_killed_and_on_again(toy: Toy, served: list[Served]):
    """Whatever ends a run: its state says so, no process and no lock is left, and the next run goes on from there."""
    served.append(here := Served(toy, BY_HAND))
    toy.knob("slow-train", "")

    def begun() -> tuple[str, list[psutil.Process]]:
        toy.knob("pids", None)
        run = here.start()
        return run, here.slow()

    run, family = begun()
    assert len(family) >= 4, "the flow, its DVC process, the stage and its child"
    # What the button of the run's page asks for.
    httpx.post(
        f"{here.api}/flow_runs/{run}/set_state",
        json={"state": {"type": "CANCELLING", "name": "Cancelling"}},
    ).raise_for_status()
    wait_for(lambda: here.state(run)["type"] == "CANCELLED", "the cancelled run")
    gone(family)
    assert not toy.locked()

    def running() -> bool:
        return "RUNNING" in {
            task["state_type"]
            for task in found(here.api, "task_runs", flow_runs={"id": {"any_": [run]}})
        }

    wait_for(lambda: not running(), "its tasks' states, which the server learns of a little later")

    for number in (signal.SIGTERM, signal.SIGKILL):
        run, family = begun()
        family[0].send_signal(number)
        wait_for(
            lambda run=run: here.state(run)["type"] == "CRASHED", f"the run after {number.name}"
        )
        gone(family)
        assert not toy.locked()

    run, family = begun()
    family += here.run.family()
    here.run.process.kill()
    gone(family)
    assert not toy.locked()

    served.append(here := Served(toy, BY_HAND))
    wait_for(lambda: here.state(run)["type"] == "CRASHED", "the run whose server was killed")
    assert "killed" in here.state(run)["message"]
    run, family = begun()
    os.killpg(here.run.process.pid, signal.SIGINT)
    assert here.run.wait() == 0, here.run.output
    gone(family)

    served.append(here := Served(toy, BY_HAND))
    wait_for(
        lambda: here.state(run)["type"] in ("CRASHED", "CANCELLED"),
        "the run whose server was ended",
    )
    toy.knob("slow-train", None)
    run = here.start()
    wait_for(lambda: here.state(run)["type"] == "COMPLETED", "the run that goes on")
    wait_for(lambda: set(task_states(here.api, run)) == set(STAGES), "its tasks")
    assert task_states(here.api, run) == {
        **dict.fromkeys(STAGES, "Completed"),
        "download": "Cached",
        "episodes": "Cached",
    }
    run = here.start()
    wait_for(lambda: here.state(run)["type"] == "COMPLETED", "the run that has nothing to do")
    assert task_states(here.api, run) == CACHED
    assert toy.dvc("status").strip() == "Data and pipelines are up to date."
    unfinished = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    assert found(here.api, "flow_runs", flow_runs=unfinished) == []
    wait_for(
        lambda: found(here.api, "task_runs", task_runs=unfinished) == [],
        "tasks of killed runs to have their state",
    )


def test_a_schedule_fires(toy: Toy, served: list[Served]):
    """Every minute here, at night in prefect.yaml; the run is an experiment, its report is served, and the checkout is as it was."""
    served.append(here := Served(toy, SCHEDULED))

    def done() -> list[dict]:
        finished = {
            "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
            "tags": {"all_": ["auto-scheduled"]},
        }
        return found(here.api, "flow_runs", flow_runs=finished)

    wait_for(done, "a scheduled run", 150)
    run = done()[0]
    assert run["state_type"] == "COMPLETED" and run["state"]["message"].startswith(
        "experiment nightly: 5 stages ran"
    ), run["state"]
    assert "nightly" in toy.dvc("exp", "show", "--md")
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=toy.path,
        capture_output=True,
        text=True,
    )
    assert status.stdout == ""
    page = f"{here.api.removesuffix('/api')}/reports/experiments/nightly/report.html"
    assert (
        httpx.get(page).text == (toy.path / "reports/experiments/nightly/report.html").read_text()
    )
    assert httpx.get(f"{page}/../../../dvc.yaml").text != (toy.path / "dvc.yaml").read_text()


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a web hook, and what it is told."""
    told: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()


BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Hook
print(Hook(name="hook", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}).save("team"))
"""

FALL = """
import logging, sys
from pathlib import Path
from flows import watch
from tasks.experiments import Revision
print(watch.since(Path(sys.argv[1]), "nightly", Revision("nightly", sys.argv[2]), logging.getLogger()))
"""


def test_notifications(
    toy: Toy, served: list[Served], hook: tuple[str, list[dict[str, str]]], tmp_path: Path
):
    """Those of conf/automations.yaml, to a web hook: of a run that failed, and of an accuracy that fell by more than its interval."""
    address, told = hook
    served.append(here := Served(toy, BY_HAND))
    environment = toy.environment | {"PREFECT_API_URL": here.api, "PYTHONPATH": str(ROOT)}

    def run(*words: str) -> str:
        ended = subprocess.run(
            [sys.executable, *words], cwd=toy.path, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout.strip()

    block = run("-c", BLOCK, address)
    text = (ROOT / "conf/automations.yaml").read_text()
    (toy.path / "conf").mkdir(exist_ok=True)
    (toy.path / "conf/automations.yaml").write_text(
        text.replace("00000000-0000-0000-0000-000000000000", block)
    )
    run("-m", "prefect", "automation", "create", "--from-file", "conf/automations.yaml")

    toy.knob("fail-train", "iteration 3 is not finite: lower train.meta_lr")
    here.start()
    wait_for(lambda: told, "word of the failure", 90)
    assert told[0]["subject"].startswith("pipeline ") and told[0]["subject"].endswith(": Failed")
    assert told[0]["body"] == "train: iteration 3 is not finite: lower train.meta_lr"
    log: list[str] = []

    def logged() -> bool:
        log[:] = [line["message"] for line in found(here.api, "logs", logs={})]
        return any("Finished in state Failed" in line for line in log)

    wait_for(logged, "the run's log")
    assert "Traceback" not in "\n".join(log) + here.run.output

    history = Repository(tmp_path / "a history", test=200)
    before = history.experiment("nightly", 0.1)
    history.experiment("nightly", -0.2)
    said = run("-c", FALL, str(history.path), before)
    assert said.startswith("; accuracy fell by ")
    wait_for(lambda: len(told) > 1, "word of the fall", 90)
    assert told[1] == {
        "subject": "nightly",
        "body": said.removeprefix("; ").removesuffix(" since the last run"),
    }
    assert run("-c", FALL, str(history.path), history.experiment("nightly", -0.2)).startswith(
        "; accuracy did not change significantly"
    )
    assert len(told) == 2
