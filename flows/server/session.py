"""Common parts of the commands of flows/: arguments, errors and a Prefect server.

Prefect reads its settings when it is imported. A command therefore enters `prefect_session` first
and imports its flow inside it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import environment, workspace
from flows.server import signals
from flows.server.server import Server
from tasks.runtime.stage import StageError

EPILOG = """\
A running Prefect server is not required. Without PREFECT_API_URL or PREFECT_PROFILE, a run starts
its own server and keeps its history in .prefect (or PREFECT_HOME). `make ui` shows that history.
Exit codes: 0 success, 1 failure, 2 wrong arguments, 130 interrupted, 143 terminated."""
"""Last paragraph of the --help of all commands."""


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return an argument parser for `python -m MODULE`."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_command(body: Callable[[Path], int]) -> int:
    """Run the body of a command in the checkout that contains the current folder.

    Args:
        body: Called with the root of the checkout. Returns an exit code.

    Returns:
        The exit code. Errors are printed to standard error, one per line.
    """
    signals.install_handlers()
    try:
        root = workspace.find_root(Path.cwd())
        os.chdir(root)
        return body(root)
    except (StageError, RuntimeError) as error:
        print_errors(str(error))
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the command again to resume", file=sys.stderr)
        return 130


def print_errors(message: str) -> None:
    print("\n".join(f"error: {line}" for line in message.splitlines()), file=sys.stderr)


@contextmanager
def prefect_session(
    root: Path, while_starting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Configure Prefect to use the user's server, or one that ends with this process.

    Args:
        root: Root of the checkout.
        while_starting: Called while the server starts.
    """
    environment.set_defaults(root)
    server = None
    if not environment.has_server():
        server = Server(Path(os.environ["PREFECT_HOME"]))
        environment.use_server(server.port)
    while_starting()

    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    if server is None:
        yield
        return
    server.wait()
    # Heartbeats are not read, and the thread that sends them takes up to a second to end.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
