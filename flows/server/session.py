"""What every command of flows/ needs around its flow: signals, Prefect's settings, and a server where the user has none.

Prefect reads its settings when it is imported: a command enters `prefect` first and imports its flow within.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from flows import environment, workspace
from flows.server.server import Server
from tasks.runtime.stage import StageError


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The start of a command line `python -m flows.NAME`."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        prog=f"python -m flows.{name}", description=about, epilog=MORE, formatter_class=layout
    )


def command(body: Callable[[Path], int]) -> int:
    """Runs `body(root)` in the checkout around the current folder as a program: its exit code, or one sentence and 1 (130: interrupted)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, terminate)
    try:
        root = workspace.find_root(Path.cwd())
        os.chdir(root)
        return body(root)
    except (StageError, RuntimeError) as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        return 130


def terminate(number: int, frame: FrameType | None) -> None:
    """Leaves through every `finally`; Prefect's own handler, while a flow runs, reports the state and then calls this one."""
    sys.exit(128 + number)


@contextmanager
def prefect(root: Path, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Prefect, with the server that the user named or one of this run; `meanwhile` is called while that one starts."""
    own = not environment.has_server()
    environment.prepare(root)
    server = Server(Path(os.environ["PREFECT_HOME"])) if own else None
    if server:
        environment.use_server(server.port)
    meanwhile()

    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    if server:
        server.wait()
    # Our own server acts on no heartbeat, and the thread that sends them takes up to a second to end.
    settings = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if own else {})
    with settings:
        yield


MORE = """No server has to run: without PREFECT_API_URL (or PREFECT_PROFILE) a run brings its own, and keeps its history in .prefect
(or PREFECT_HOME). To look at it: PREFECT_HOME=.prefect prefect server start.
Exit code: 0 done, 1 something failed, 2 wrong arguments, 130 interrupted, 143 terminated."""
"""The end of every command's --help."""
