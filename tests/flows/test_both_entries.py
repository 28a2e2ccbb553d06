"""`dvc repro` and the Prefect flow alternate in a copy of the checkout, for each kind of change.

After each step the same stages have run with either entry point, and the other finds nothing to do.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import copy_checkout, git

from tasks import preset
from tasks.runtime.stage import PROGRESS

pytestmark = pytest.mark.slow
"""About twenty runs of the pipeline. tests/test_dvc_yaml.py also checks the dependencies."""

STAGES = ["download", "episodes", "train", "evaluate", "report"]
SETTINGS = {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Workspace:
    """A checkout with the preset `tiny`, and its two entry points."""

    def __init__(self, root: Path, api: str):
        self.root = copy_checkout(root)
        preset.apply_preset("tiny", root / "params.yaml")
        git(root, "commit", "--quiet", "--all", "--message=tiny")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        dropped = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME", "PYTHONPATH")
        self.environment = (
            {k: v for k, v in os.environ.items() if k not in dropped} | SETTINGS | {"PATH": path}
        )
        self.environment["PREFECT_API_URL"] = api
        self.environment["DVC_SITE_CACHE_DIR"] = str(root / ".dvc" / "tmp" / "site-cache")

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str) -> str:
        process = self.start(*command)
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
        return output

    def dvc(self) -> list[str]:
        """The stages that `dvc repro` ran."""
        return re.findall(r"^Running stage '(\w+)'", self.call("dvc", "repro"), re.M)

    def flow(self) -> list[str]:
        """The stages that the flow ran; all others ended `Cached`."""
        rows = re.findall(
            r"^(\w+) +(Completed|Cached) +[\d.]+$",
            self.call(sys.executable, "-m", "flows.pipeline"),
            re.M,
        )
        assert [stage for stage, _ in rows] == STAGES
        return [stage for stage, state in rows if state == "Completed"]

    def settled(self, other) -> None:
        """The other entry point has nothing to do, and `dvc status` is clean."""
        assert other() == []
        assert "up to date" in self.call("dvc", "status")

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert re.search(old, text), f"{name} holds no {old}"
        (self.root / name).write_text(re.sub(old, new, text, count=1))

    def hashes(self) -> dict[str, str]:
        """The outs of dvc.lock but run.json, with their hashes."""
        from ruamel.yaml import YAML

        lock = YAML(typ="safe", pure=True).load((self.root / "dvc.lock").read_text())
        outs = {
            out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]
        }
        assert len(outs) == 12
        del outs["reports/run.json"]
        return outs


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, api) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("both") / "a checkout", api)


def test_every_kind_of_change(workspace):
    dvc, flow = workspace.dvc, workspace.flow

    assert flow() == STAGES, "fresh"
    workspace.settled(dvc)
    fresh = workspace.hashes()

    workspace.edit("params.yaml", "title: null", "title: Mine")
    assert dvc() == ["report"], "a param of the last stage"
    workspace.settled(flow)

    workspace.edit("params.yaml", "meta_lr: 0.002", "meta_lr: 0.01")
    assert flow() == ["train", "evaluate", "report"], "a param of training"
    assert (
        workspace.hashes()["models/run/weights.safetensors"]
        != fresh["models/run/weights.safetensors"]
    )
    workspace.edit("params.yaml", "meta_lr: 0.01", "meta_lr: 0.002")
    workspace.edit("params.yaml", "title: Mine", "title: null")
    assert dvc() == [], "reverted params are restored"
    assert workspace.hashes() == fresh
    workspace.settled(flow)

    workspace.edit("params.yaml", r"(fomaml:.*\n +inner_lr: )0.4", r"\g<1>0.3")
    assert flow() == [], "a param of another method"
    workspace.edit("params.yaml", r"(fomaml:.*\n +inner_lr: )0.3", r"\g<1>0.4")

    workspace.edit("episodic/algorithms/fomaml.py", r"\Z", "# a remark\n")
    assert dvc() == [], "code of another method"
    workspace.edit("tasks/report.py", r"\Z", "# a remark\n")
    assert flow() == ["report"], "code of the last stage"
    workspace.edit("tasks/evaluate.py", r"\Z", "# a remark\n")
    assert dvc() == ["evaluate"], "code of a stage whose results stay the same"
    workspace.settled(flow)

    for name in ("models/run/weights.safetensors", "reports/report.html"):
        (workspace.root / name).unlink()
    assert flow() == [], "deleted outputs are restored"
    assert (workspace.root / "models/run/weights.safetensors").exists() and (
        workspace.root / "reports/report.html"
    ).exists()
    (workspace.root / "reports/report.html").write_text("tampered")
    assert dvc() == [], "a tampered output is restored"
    assert "tampered" not in (workspace.root / "reports/report.html").read_text()[:100]
    workspace.settled(flow)


def test_dvc_resumes_a_killed_flow_with_the_same_bytes(workspace):
    """`dvc repro` resumes a flow that was killed during training; continues the test above."""
    workspace.edit("params.yaml", "iterations: 20 ", "iterations: 600 ")
    flow = workspace.start(sys.executable, "-m", "flows.pipeline")
    resume = workspace.root / ".dvc" / "resume"
    wait_for(lambda: any(resume.glob("*/state.safetensors")), flow)
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=60)
    wait_for(lambda: not running_in(workspace.root), None)
    output = workspace.call("env", f"{PROGRESS}=json", "dvc", "repro")
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    resumed = [event["iteration"] for event in events if event["event"] == "resume"]
    assert len(resumed) == 1 and 0 < resumed[0] < 600
    assert events[-1]["stage"] == "evaluate" and any(
        e.get("done") == 600 and e["stage"] == "train" for e in events
    )
    assert not any(resume.iterdir()), "no checkpoint is left that could stand for a run"
    workspace.settled(workspace.flow)
    killed = workspace.hashes()
    workspace.call("dvc", "repro", "--force", "--single-item", "train")
    assert workspace.hashes() == killed, "the uninterrupted run has the same bytes"
    workspace.settled(workspace.dvc)


def test_two_clones_two_entries_the_same_hashes(workspace, tmp_path, api):
    other = Workspace(tmp_path / "another", api)
    assert other.dvc() == STAGES
    workspace.edit("params.yaml", "iterations: 600 ", "iterations: 20 ")
    git(workspace.root, "checkout", "--quiet", "--", "episodic", "tasks", "params.yaml")
    workspace.flow()
    assert other.hashes() == workspace.hashes()


def test_metrics_params_experiments_and_remotes(workspace, tmp_path):
    """`dvc metrics|params diff`, `dvc exp run -S`, `dvc push` and `dvc pull` work after a run."""
    git(workspace.root, "add", "--all")
    git(workspace.root, "commit", "--quiet", "--message=run", "--allow-empty")
    shown = json.loads(workspace.call("dvc", "metrics", "show", "--json"))
    assert 0 <= shown[""]["data"]["reports/metrics.json"]["data"]["accuracy"] <= 1
    workspace.call("dvc", "exp", "run", "--quiet", "-S", "train.iterations=10")
    assert '"train.iterations"' in workspace.call("dvc", "params", "diff", "--json")
    assert (
        "train.iterations"
        in json.loads(workspace.call("dvc", "metrics", "diff", "--json"))["reports/metrics.json"]
    )
    workspace.call("dvc", "remote", "add", "--default", "--local", "store", str(tmp_path / "store"))
    workspace.call("dvc", "push", "--quiet")
    model = workspace.root / "models/run/weights.safetensors"
    content = model.read_bytes()
    subprocess.run(["rm", "-rf", ".dvc/cache", "models/run"], cwd=workspace.root, check=True)
    workspace.call("dvc", "pull", "--quiet")
    assert model.read_bytes() == content


def running_in(root: Path) -> list[int]:
    """Processes whose current folder is `root`."""
    return [
        process.pid
        for process in psutil.process_iter(["cwd"])
        if process.info["cwd"] == str(root.resolve())
    ]


def wait_for(condition, process: subprocess.Popen[str] | None, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        assert process is None or process.poll() is None, (
            process.communicate()[0] if process else ""
        )
        time.sleep(0.05)
