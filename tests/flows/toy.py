"""A small repository with stages of the same names: real git, DVC and processes, no learning.

Files in `knobs/`, which DVC does not know, change how a stage behaves without making it stale.
`fail-NAME` contains the error that a stage ends with, `exit-NAME` an exit code for its next run.
While `slow-NAME` exists, the stage does not end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["download", "episodes", "train", "evaluate", "report"]

STAGE = """
import json, os, pathlib, re, subprocess, sys, time

name, out, *inputs = sys.argv[1:]
pathlib.Path(os.environ.get("EPISODIC_STAGE_STARTED", "started.log")).touch()
knob = lambda kind: pathlib.Path("knobs", f"{kind}-{name}")
if knob("exit").exists():
    code = int(knob("exit").read_text())
    knob("exit").unlink()
    sys.exit(code)
if knob("fail").exists():
    sys.exit(f"error: {knob('fail').read_text()}")
as_json = os.environ.get("EPISODIC_PROGRESS") == "json"
for done in range(1, 4):
    event = {"event": "progress", "stage": name, "what": "steps", "done": done, "total": 3,
             "rate": 2.0, "eta": 1.0, "loss": 0.5}
    print(json.dumps(event) if as_json else f"{done} of 3", flush=True)
if knob("slow").exists():
    # The child holds the stage's streams open.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("knobs", "pids").write_text(f"{os.getpid()} {child.pid}")
    while knob("slow").exists():
        time.sleep(0.05)
    child.kill()
print("words of", name)
value = re.search(rf'"{name}": "?(\\w+)', pathlib.Path("params.yaml").read_text())[1]
if value == "bad":
    sys.exit("error: bad is no value")
target = pathlib.Path(out)
target.parent.mkdir(parents=True, exist_ok=True)
contents = [pathlib.Path(path).read_text() for path in inputs]
target.write_text(json.dumps([int(value), *contents]))
"""

# The last stage comes first, since the order is the graph's and not the file's.
DVC = """
stages:
  report:
    cmd: python stage.py report reports/report.html reports/metrics.json data/raw
    deps: [stage.py, reports/metrics.json, data/raw]
    params: [report]
    outs: [reports/report.html]
  evaluate:
    cmd: python stage.py evaluate reports/metrics.json models/run
    deps: [stage.py, models/run]
    params: [evaluate]
    metrics: [reports/metrics.json: {cache: false}]
  train:
    cmd: python stage.py train models/run data/prepared
    deps: [stage.py, data/prepared]
    params: [train]
    outs: [models/run]
  episodes:
    cmd: python stage.py episodes data/prepared data/raw
    deps: [stage.py, data/raw]
    params: [episodes]
    outs: [data/prepared]
  download:
    cmd: python stage.py download data/raw
    deps: [stage.py]
    params: [download]
    outs: [data/raw]
"""

AUTHOR = {
    f"GIT_{role}_{field}": "a@b" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")
}
"""An identity for commits."""


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a user who has configured neither Prefect nor DVC."""
    prefixes = ("PREFECT_", "DVC_", "EPISODIC_")
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}


class Toy:
    """The repository at `path`, and methods that run commands in it as a user would."""

    def __init__(self, path: Path):
        self.path = path
        self.environment = {
            **without_settings(os.environ),
            "PYTHONPATH": str(ROOT),  # the toy has no flows/
            "DVC_NO_ANALYTICS": "1",
            # Prefect's defaults are 10 seconds.
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }

    @classmethod
    def make(cls, path: Path) -> Toy:
        (path / "knobs").mkdir(parents=True)
        (path / "stage.py").write_text(STAGE)
        (path / "dvc.yaml").write_text(DVC)
        (path / ".gitignore").write_text(".prefect/\nknobs/\nreports/experiments/\n")
        toy = cls(path)
        toy.params(**dict.fromkeys(STAGES, 1))
        toy.git("init", "-q", "--initial-branch=main")
        toy.dvc("init", "-q")
        return toy

    def params(self, **values: int) -> None:
        file = self.path / "params.yaml"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, **values}))

    def knob(self, name: str, text: str | None) -> None:
        file = self.path / "knobs" / name
        file.unlink(missing_ok=True) if text is None else file.write_text(text)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={**AUTHOR, **self.environment},
            check=True,
            text=True,
            capture_output=True,
        )
        return done.stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=start")

    def dvc(self, *arguments: str) -> str:
        """Run `dvc` as from a shell with an active environment, and return its output."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.path,
            env={**self.environment, "PATH": path},
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def locked(self) -> bool:
        """Whether DVC's lock file contains a process, alive or not."""
        return json.loads((self.path / ".dvc" / "tmp" / "rwlock").read_text()) != {}

    def start(self, *arguments: str, module: str = "flows.pipeline", **environment: str) -> Run:
        command = [sys.executable, "-m", module, *arguments]
        return Run(self, command, {**self.environment, **environment})

    def slow_pids(self) -> list[int]:
        """The process ids of the slow stage and its child, once they run."""
        file = self.path / "knobs" / "pids"
        wait_for(
            lambda: file.exists() and file.read_text().count(" ") == 1, "the slow stage to start"
        )
        return [int(pid) for pid in file.read_text().split()]


class Run:
    """A process in its own group, as a shell starts it, whose output can be read meanwhile."""

    def __init__(self, toy: Toy, command: list[str], environment: dict[str, str]):
        self.file = toy.path / "knobs" / f"output-{time.monotonic_ns()}"
        with self.file.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=toy.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.file.read_text()

    def wait(self) -> int:
        return self.process.wait(120)

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def states(self) -> dict[str, str]:
        """The table at the end: stage -> state."""
        lines = self.output.splitlines()
        header = next(i for i, line in enumerate(lines) if line.startswith("stage "))
        rows = [line.split() for line in lines[header + 1 :]]
        return {row[0]: " ".join(row[1:-1]) for row in rows if len(row) > 2 and row[0] in STAGES}


def wait_for(holds: Callable[[], object], description: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"timed out after {seconds:.0f} s: {description}"
        time.sleep(0.05)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
