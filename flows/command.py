"""The command line of the flow, and the server and home that it brings where the user has none."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

from flows import driver, environment, workspace
from flows.server import Server
from tasks import params
from tasks.stage import StageError

if TYPE_CHECKING:
    from flows.pipeline import Result

ABOUT = """Brings the project's outputs up to date as a Prefect flow: the stages of dvc.yaml, configured by params.yaml.

DVC decides what is up to date, so this and `dvc repro` can take turns. A stage ends `Cached` where DVC skipped or restored it
and `Completed` where it ran."""

MORE = """No server has to run: without PREFECT_API_URL (or PREFECT_PROFILE) a run brings its own, and keeps its history in .prefect
(or PREFECT_HOME). To look at it: PREFECT_HOME=.prefect prefect server start.
Exit code: 0 done, 1 a stage failed, 2 wrong arguments, 130 interrupted, 143 terminated."""


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, terminate)
    try:
        root = workspace.find_root(Path.cwd())
        os.chdir(root)
        if (root / "tasks").is_dir():
            params.load(root / "params.yaml")  # mistakes in any section are told before anything runs
        return run(root, options)
    except (StageError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description=ABOUT, epilog=MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--stage", nargs="+", metavar="NAME", help="go only as far as these stages, with all that they need")
    result.add_argument("--force", action="store_true", help="run every stage, also where DVC knows the outcome")
    result.add_argument(
        "--patience", type=float, default=300.0, metavar="SECONDS", help="wait so long for another DVC command (default: 300)"
    )
    return result


def terminate(number: int, frame: FrameType | None) -> None:
    """Leaves through every `finally`; Prefect's own handler, while a flow runs, reports the state and then calls this one."""
    sys.exit(128 + number)


def run(root: Path, options: argparse.Namespace) -> int:
    own = not environment.has_server()
    environment.prepare(root)
    server = Server(Path(os.environ["PREFECT_HOME"])) if own else None
    if server:
        environment.use_server(server.port)
    driver.start(root)

    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows import predecessors
    from flows.pipeline import pipeline

    if server:
        server.wait()
        predecessors.mark_crashed()
    # Our own server acts on no heartbeat, and the thread that sends them takes up to a second to end.
    settings = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if own else {})
    with settings, tags(*([predecessors.tag()] if own else [])):
        state = pipeline(options.stage, options.force, options.patience, return_state=True)
    print(table(cast("list[Result]", state.result(raise_on_failure=False))))
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


def table(results: list[Result]) -> str:
    rows = [("stage", "state", "seconds")]
    rows += [(result.stage, result.state, f"{result.seconds:.1f}" if result.state != "not run" else "-") for result in results]
    stage, state = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{row[0]:<{stage}}  {row[1]:<{state}}  {row[2]:>7}" for row in rows)
