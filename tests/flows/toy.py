"""A small repository with the five stages' names, for the flow's own tests: real git, DVC and processes, no learning.

Files in `knobs/`, which DVC does not know, change how a stage behaves and not whether it is up to date:
`fail-NAME` holds the error that the stage ends with, `exit-NAME` an exit code for its next run only; while
`slow-NAME` is there, the stage does not end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["download", "episodes", "train", "evaluate", "report"]

STAGE = """
import json, os, pathlib, subprocess, sys, time

from ruamel.yaml import YAML

name, out, *inputs = sys.argv[1:]
pathlib.Path(os.environ.get("EPISODIC_STAGE_STARTED", "started.log")).touch()
knob = lambda kind: pathlib.Path("knobs", f"{kind}-{name}")
if knob("exit").exists():
    code = int(knob("exit").read_text())
    knob("exit").unlink()
    sys.exit(code)
if knob("fail").exists():
    sys.exit(f"error: {knob('fail').read_text()}")
for done in range(1, 4):
    event = {"event": "progress", "stage": name, "what": "steps", "done": done, "total": 3, "rate": 2.0, "eta": 1.0, "loss": 0.5}
    print(json.dumps(event), flush=True)
if knob("slow").exists():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # holds the stage's streams
    pathlib.Path("knobs", "pids").write_text(f"{os.getpid()} {child.pid}")
    while knob("slow").exists():
        time.sleep(0.05)
    child.kill()
print("words of", name)
value = YAML(typ="safe").load(pathlib.Path("params.yaml"))[name]
if value == "bad":
    sys.exit("error: bad is no value")
target = pathlib.Path(out)
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(json.dumps([value, *(pathlib.Path(path).read_text() for path in inputs)]))
"""

# The last stage first: the order is the graph's, not the file's.
DVC = """
stages:
  report: {cmd: python stage.py report reports/report.html reports/metrics.json data/raw, deps: [stage.py, reports/metrics.json, data/raw],
           params: [report], outs: [reports/report.html]}
  evaluate: {cmd: python stage.py evaluate reports/metrics.json models/run, deps: [stage.py, models/run], params: [evaluate],
             metrics: [reports/metrics.json: {cache: false}]}
  train: {cmd: python stage.py train models/run data/prepared, deps: [stage.py, data/prepared], params: [train], outs: [models/run]}
  episodes: {cmd: python stage.py episodes data/prepared data/raw, deps: [stage.py, data/raw], params: [episodes], outs: [data/prepared]}
  download: {cmd: python stage.py download data/raw, deps: [stage.py], params: [download], outs: [data/raw]}
"""


class Toy:
    """The repository at `path`, and ways to run things in it as a user would."""

    def __init__(self, path: Path):
        self.path = path
        self.environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    @classmethod
    def make(cls, path: Path) -> Toy:
        (path / "knobs").mkdir(parents=True)
        (path / "stage.py").write_text(STAGE)
        (path / "dvc.yaml").write_text(DVC)
        (path / ".gitignore").write_text(".prefect/\nknobs/\nreports/experiments/\n")
        result = cls(path)
        result.params(**dict.fromkeys(STAGES, 1))
        subprocess.run(["git", "init", "-q"], cwd=path, check=True)
        result.dvc("init", "-q")
        return result

    def params(self, **values: int) -> None:
        file = self.path / "params.yaml"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, **values}))

    def knob(self, name: str, text: str | None) -> None:
        file = self.path / "knobs" / name
        file.unlink(missing_ok=True) if text is None else file.write_text(text)

    def dvc(self, *arguments: str) -> str:
        """`dvc` from a shell in which the environment is active; what it printed."""
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
        """Whether DVC's record of locks names a process, alive or not."""
        return json.loads((self.path / ".dvc" / "tmp" / "rwlock").read_text()) != {}

    def start(self, *arguments: str, module: str = "flows.pipeline", **environment: str) -> Run:
        return Run(
            self, [sys.executable, "-m", module, *arguments], {**self.environment, **environment}
        )

    def slow_pids(self) -> list[int]:
        """The slow stage and its child, once they run."""
        file = self.path / "knobs" / "pids"
        wait_for(
            lambda: file.exists() and file.read_text().count(" ") == 1, "the slow stage to start"
        )
        return [int(pid) for pid in file.read_text().split()]


class Run:
    """A process of its own group, as a shell starts it; its output in a file, so that it can be read meanwhile."""

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
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def states(self) -> dict[str, str]:
        """The table at the end: stage -> state."""
        lines = self.output.splitlines()
        rows = [
            line.split()
            for line in lines[
                next(i for i, line in enumerate(lines) if line.startswith("stage ")) + 1 :
            ]
        ]
        return {row[0]: " ".join(row[1:-1]) for row in rows if len(row) > 2 and row[0] in STAGES}


def wait_for(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
