"""Runs that `make ui` starts in a toy repository: scheduled, by hand, cancelled and killed."""

from __future__ import annotations

import json
import os
import shutil
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

from tests.flows.test_pipeline import CACHED, read, task_states
from tests.flows.toy import ROOT, STAGES, Run, Toy, wait_for, wait_until_gone

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
    # The sixth field is seconds.
    "schedules": [{"cron": "* * * * * */20", "timezone": "UTC", "active": True}],
    "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
}


class Site:
    """`make ui` in a toy repository."""

    def __init__(self, toy: Toy, *deployments: dict[str, Any]):
        (toy.path / "prefect.yaml").write_text(json.dumps({"deployments": deployments}))
        self.toy = toy
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api"
        self.run: Run = toy.start("--port", str(port), module="flows.ui")
        wait_for(self.deployment, "the deployment", 120)

    def stop(self) -> None:
        if self.run.process.poll() is None:
            os.killpg(self.run.process.pid, signal.SIGINT)
            self.run.wait()

    def deployment(self) -> str | None:
        """The id of the deployment to start by hand, once it is ready."""
        try:
            known = read(self.api, "deployments")
        except httpx.HTTPError:
            return None
        ready = [d["id"] for d in known if d["status"] == "READY" and d["name"] == BY_HAND["name"]]
        return ready[0] if ready else None

    def start(self) -> str:
        responses: list[httpx.Response] = []

        def created() -> bool:
            """Whether the run was created. A server with a busy database returns 503."""
            url = f"{self.api}/deployments/{self.deployment()}/create_flow_run"
            responses.append(httpx.post(url, json={}, timeout=60))
            return responses[-1].status_code != 503

        wait_for(created, "the server to create a run")
        responses[-1].raise_for_status()
        return responses[-1].json()["id"]

    def pause(self, name: str) -> None:
        """Stop the schedule of a deployment."""
        ids = [d["id"] for d in read(self.api, "deployments") if d["name"] == name]
        for deployment in ids:
            httpx.post(f"{self.api}/deployments/{deployment}/pause_deployment").raise_for_status()

    def state(self, run: str) -> dict[str, Any]:
        return httpx.get(f"{self.api}/flow_runs/{run}").json()["state"]

    def slow_family(self) -> list[psutil.Process]:
        """The processes of the run whose stage is slow now, starting with that of the flow."""
        pids = self.toy.slow_pids()
        stage = psutil.Process(pids[0])
        ancestors = [stage, *stage.parents()]
        position = [process.pid for process in ancestors].index(self.run.process.pid)
        flow = ancestors[position - 1]
        return [flow, *flow.children(recursive=True), *(psutil.Process(pid) for pid in pids)]


def prepare(toy: Toy, database: Path) -> Toy:
    """Commit the toy, and copy an empty database into its Prefect home."""
    (toy.path / ".gitignore").write_text(".prefect/\nknobs/\nprefect.yaml\nreports/experiments/\n")
    toy.commit()
    (toy.path / ".prefect").mkdir()
    shutil.copy(database, toy.path / ".prefect" / "prefect.db")
    return toy


@pytest.fixture
def start_site(toy: Toy, empty_database: Path) -> Iterator[Any]:
    """Start `make ui` in the toy. All sites end with the test."""
    prepare(toy, empty_database)
    sites: list[Site] = []

    def start() -> Site:
        sites.append(Site(toy, BY_HAND))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


@pytest.fixture(scope="module")
def site(
    template: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One `make ui` for the tests that neither end nor break it."""
    path = shutil.copytree(template, tmp_path_factory.mktemp("site") / "a toy")
    site = Site(prepare(Toy(path), empty_database), BY_HAND, SCHEDULED)
    yield site
    site.stop()


@pytest.mark.slow  # test_pipeline.py ends runs without a served deployment
def test_runs_resume_after_any_kind_of_termination(toy: Toy, start_site):
    """The run ends in the correct state and leaves no process and no lock."""
    site: Site = start_site()
    toy.knob("slow-train", "")

    def start_slow_run() -> tuple[str, list[psutil.Process]]:
        toy.knob("pids", None)
        run = site.start()
        return run, site.slow_family()

    run, family = start_slow_run()
    assert len(family) >= 4, "the flow, its DVC process, the stage and its child"
    # What the cancel button of a run's page does.
    httpx.post(
        f"{site.api}/flow_runs/{run}/set_state",
        json={"state": {"type": "CANCELLING", "name": "Cancelling"}},
    ).raise_for_status()
    wait_for(lambda: site.state(run)["type"] == "CANCELLED", "the cancelled run")
    wait_until_gone(family)
    assert not toy.locked()

    def has_running_task() -> bool:
        tasks = read(site.api, "task_runs", flow_runs={"id": {"any_": [run]}})
        return "RUNNING" in {task["state_type"] for task in tasks}

    wait_for(lambda: not has_running_task(), "the tasks' states to reach the server")

    for number in (signal.SIGTERM, signal.SIGKILL):
        run, family = start_slow_run()
        family[0].send_signal(number)
        wait_for(
            lambda run=run: site.state(run)["type"] == "CRASHED", f"the run after {number.name}"
        )
        wait_until_gone(family)
        assert not toy.locked()

    run, family = start_slow_run()
    family += site.run.family()
    site.run.process.kill()
    wait_until_gone(family)
    assert not toy.locked()

    site = start_site()
    wait_for(lambda: site.state(run)["type"] == "CRASHED", "the run whose server was killed")
    assert "killed" in site.state(run)["message"]
    run, family = start_slow_run()
    os.killpg(site.run.process.pid, signal.SIGINT)
    assert site.run.wait() == 0, site.run.output
    wait_until_gone(family)

    site = start_site()
    wait_for(
        lambda: site.state(run)["type"] in ("CRASHED", "CANCELLED"), "the run whose server ended"
    )
    toy.knob("slow-train", None)
    run = site.start()
    wait_for(lambda: site.state(run)["type"] == "COMPLETED", "the run that resumes")
    wait_for(lambda: set(task_states(site.api, run)) == set(STAGES), "its tasks")
    assert task_states(site.api, run) == {
        **dict.fromkeys(STAGES, "Completed"),
        "download": "Cached",
        "episodes": "Cached",
    }
    run = site.start()
    wait_for(lambda: site.state(run)["type"] == "COMPLETED", "the run with nothing to do")
    assert task_states(site.api, run) == CACHED
    assert toy.dvc("status").strip() == "Data and pipelines are up to date."
    unfinished = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    assert read(site.api, "flow_runs", flow_runs=unfinished) == []
    wait_for(
        lambda: read(site.api, "task_runs", task_runs=unfinished) == [],
        "the tasks of killed runs to have a final state",
    )


def test_a_schedule_fires(site: Site):
    """The run is an experiment, its report is served, and the checkout is not modified."""

    def finished() -> list[dict]:
        filters = {
            "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
            "tags": {"all_": ["auto-scheduled"]},
        }
        return read(site.api, "flow_runs", flow_runs=filters, sort="START_TIME_ASC")

    wait_for(finished, "a scheduled run", 150)
    run = finished()[0]
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["state"]["message"].startswith("experiment nightly: 5 stages ran")
    assert "nightly" in site.toy.dvc("exp", "show", "--md")
    assert site.toy.git("status", "--porcelain", "--untracked-files=no") == ""
    url = f"{site.api.removesuffix('/api')}/reports/experiments/nightly/report.html"
    report = site.toy.path / "reports/experiments/nightly/report.html"
    assert httpx.get(url).text == report.read_text()
    assert httpx.get(f"{url}/../../../dvc.yaml").text != (site.toy.path / "dvc.yaml").read_text()


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The URL of a webhook, and the messages that it receives."""
    messages: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", messages
    server.shutdown()


SAVE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
fields = {"subject": "{{subject}}", "body": "{{body}}"}
block = CustomWebhookNotificationBlock(name="hook", url=sys.argv[1], json_data=fields)
print(block.save("team"))
"""

DESCRIBE_CHANGES = """
import logging, sys
from pathlib import Path
from flows.experiments.score_change import describe_change
from tasks.experiments import Revision
root, *commits = sys.argv[1:]
for commit in commits:
    previous = Revision("nightly", commit)
    print(describe_change(Path(root), "nightly", previous, logging.getLogger()))
"""


def test_notifications(site: Site, webhook: tuple[str, list[dict[str, str]]], tmp_path: Path):
    """conf/automations.yaml reports a run that failed and a score that fell, to a webhook."""
    address, messages = webhook
    toy = site.toy
    environment = toy.environment | {"PREFECT_API_URL": site.api}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=toy.path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    block = run("-c", SAVE_BLOCK, address)
    text = (ROOT / "conf/automations.yaml").read_text()
    (toy.path / "conf").mkdir()
    (toy.path / "conf/automations.yaml").write_text(
        text.replace("00000000-0000-0000-0000-000000000000", block)
    )
    run("-m", "prefect", "automation", "create", "--from-file", "conf/automations.yaml")

    # No scheduled run may train with these params first: DVC would restore its result.
    site.pause(SCHEDULED["name"])
    toy.params(train=99)
    toy.knob("fail-train", "iteration 3 is not finite: lower train.meta_lr")
    failed = site.start()
    wait_for(lambda: messages, "the message about the failure", 90)
    assert messages[0]["subject"].startswith("pipeline ")
    assert messages[0]["subject"].endswith(": Failed")
    assert messages[0]["body"] == "train: iteration 3 is not finite: lower train.meta_lr"
    log: list[str] = []

    def is_logged() -> bool:
        lines = read(site.api, "logs", logs={"flow_run_id": {"any_": [failed]}})
        log[:] = [line["message"] for line in lines]
        return any("Finished in state Failed" in line for line in log)

    wait_for(is_logged, "the run's log")
    assert "Traceback" not in "\n".join(log) + site.run.output

    # The last experiment is compared with a better one and with an equal one.
    history = Repository(tmp_path / "a history", test=200)
    commits = [history.experiment("nightly", skill) for skill in (0.1, -0.2)]
    history.experiment("nightly", -0.2)
    fell, same = run("-c", DESCRIBE_CHANGES, str(history.path), *commits).splitlines()
    assert fell.startswith("; accuracy fell by ")
    assert same.startswith("; accuracy did not change significantly")
    wait_for(lambda: len(messages) > 1, "the message about the score", 90)
    body = fell.removeprefix("; ").removesuffix(" since the last run")
    assert messages[1:] == [{"subject": "nightly", "body": body}]
