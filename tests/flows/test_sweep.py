"""A sweep as a user runs it: real processes in a toy repository."""

from __future__ import annotations

import importlib.util
import json
import os
import signal

import pytest

from tasks.experiments import RevisionHistory
from tests.flows.test_pipeline import last_run, read
from tests.flows.toy import AUTHOR, Run, Toy, wait_for, wait_until_gone

FILE = "conf/sweeps/tiny.yaml"
DONE = {f"tiny-train{train}-evaluate{evaluate}" for train in (1, 3) for evaluate in (1, 2)}
FAILURES = "error: 2 of 6 experiments failed: tiny-trainbad-evaluate1: train: bad is no value;"


@pytest.fixture
def committed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy with a sweep file of six points, two of which fail."""
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    toy.environment |= AUTHOR
    write_sweep(toy, train=[1, "bad", 3], evaluate=[1, 2])
    toy.commit()
    return toy


def write_sweep(toy: Toy, **grid: list) -> None:
    (toy.path / FILE).parent.mkdir(parents=True, exist_ok=True)
    (toy.path / FILE).write_text(json.dumps({"grid": grid}))


def start(toy: Toy, api: str, *arguments: str) -> Run:
    return toy.start(FILE, *arguments, module="flows.sweep", PREFECT_API_URL=api)


def experiments(toy: Toy) -> set[str]:
    return set(RevisionHistory(toy.path, str).experiments())


def done_rows(run: Run) -> int:
    lines = run.output.splitlines()
    return sum(" done " in line for line in lines if line.startswith("tiny-"))


def test_points_run_at_the_same_time(committed: Toy, api: str):
    """Failures do not stop the other points. A second run skips those that are done."""
    first = start(committed, api, "--at-once", "3")
    assert first.wait() == 1, first.output
    assert experiments(committed) == DONE, first.output
    assert first.output.splitlines()[-1].startswith(f"{FAILURES} tiny-trainbad-evaluate2:")
    assert done_rows(first) == 4
    assert "Traceback" not in first.output and "NoneType" not in first.output
    run = last_run(api)
    assert run["state"]["type"] == "FAILED"
    artifacts = read(api, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    (table,) = [artifact for artifact in artifacts if artifact["key"] == "tiny-sweep"]
    states = {row["experiment"]: row["state"] for row in json.loads(table["data"])}
    assert {name for name, state in states.items() if state == "done"} == DONE
    assert len(states) == 6

    write_sweep(committed, train=[1, 3], evaluate=[1, 2])
    second = start(committed, api, "--at-once", "1")
    assert second.wait() == 0, second.output
    assert second.output.count("already done") >= 4
    assert "words of" not in second.output, "nothing runs again"
    worktrees = committed.git("worktree", "list")
    assert worktrees.count("tiny-") == 2, "the worktrees of the failed points are kept for resuming"


def test_an_interrupted_sweep_leaves_no_process_and_resumes(committed: Toy, api: str):
    run = start(committed, api, "--at-once", "2")
    wait_for(lambda: experiments(committed), "an experiment to be done", 120)
    family = run.family()
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.wait() == 143, run.output
    wait_until_gone(family)
    before = experiments(committed)
    again = start(committed, api, "--at-once", "2")
    assert again.wait() == 1
    assert experiments(committed) == DONE
    assert all(name in again.output for name in before)
    assert again.output.count("already done") >= len(before) >= 1


def test_a_temporary_failure_is_retried(committed: Toy, api: str):
    """By the same policy as in the pipeline."""
    write_sweep(committed, train=[7])
    committed.commit()
    stage = committed.path / "stage.py"
    once = 'if name == "train" and not pathlib.Path("knobs").exists():\n'
    once += '    pathlib.Path("knobs").mkdir()\n    sys.exit(75)\n'
    stage.write_text(stage.read_text().replace("as_json =", f"{once}as_json ="))
    run = start(committed, api)
    assert run.wait() == 0, run.output
    assert run.output.count("Retry 1/") == 1 and run.output.count("words of download") == 1
    assert experiments(committed) == {"tiny-train7"}


def test_errors_are_reported_before_anything_runs(committed: Toy):
    (committed.path / "bad.yaml").write_text("gird: {}")
    for file, message in (
        ("bad.yaml", "error: bad.yaml: unknown key gird - did you mean grid?"),
        ("nowhere.yaml", "error: nowhere.yaml does not exist"),
    ):
        run = committed.start(file, module="flows.sweep")
        assert run.wait() == 1 and run.output.startswith(message), run.output
    assert committed.start(FILE, "--at-once", "0", module="flows.sweep").wait() == 2
    run = committed.start(FILE, "--dry-run", module="flows.sweep")
    assert run.wait() == 0
    assert run.output.splitlines()[0] == "tiny-train1-evaluate1 train=1 evaluate=1"
    assert experiments(committed) == set()


@pytest.mark.slow  # threads run the points in the tests above
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_local_cluster_runs_the_points(committed: Toy, api: str, runner: str):
    """The experiments and the table are those of threads, and no process is left."""
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        pytest.skip(f"prefect-{runner} is not installed: run pip install prefect-{runner}")
    run = start(committed, api, "--at-once", "2", "--runner", runner)
    wait_for(lambda: experiments(committed) or run.process.poll() is not None, "an experiment", 180)
    family = run.family()
    assert run.wait() == 1, run.output
    assert experiments(committed) == DONE, run.output
    assert done_rows(run) == 4
    assert run.output.splitlines()[-1].startswith(FAILURES)
    wait_until_gone(family)
