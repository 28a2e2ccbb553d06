"""A Prefect server for one run: on loopback, with a dedicated port, and ended with the run.

The server that Prefect starts by itself survives a killed run, receives the terminal's Ctrl-C
before the run has reported its state, and makes the run import the server's code. This one is a
separate process that ends when its standard input is closed. Its socket listens before the server
is ready, so early requests are queued and no other process can take the port.
"""

from __future__ import annotations

import atexit
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from flows.environment import ORIGINS

CREDENTIALS = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's variable with the USER:PASSWORD of a server."""

STARTUP_SECONDS = 120
SHUTDOWN_SECONDS = 10


class Server:
    """A server process, which is ready after `wait`.

    It stops at exit, after Prefect has sent its last states. Start it before Prefect is imported,
    because exit handlers run in reverse order.

    Args:
        home: Folder of the database and the log.
        host: Address to listen on.
        port: Port to listen on. 0 selects a free one.
        pages: Serve the UI and the reports of the current folder, and start scheduled runs.

    Raises:
        OSError: The port is in use.
    """

    def __init__(self, home: Path, host: str = "127.0.0.1", port: int = 0, pages: bool = False):
        home.mkdir(parents=True, exist_ok=True)
        self.log, self.host = home / "server.log", host
        # The first start creates the database, so starts wait for each other.
        self.start_lock = (home / "start.lock").open("w")
        fcntl.flock(self.start_lock, fcntl.LOCK_EX)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with (
            socket.create_server((host, port), family=family) as listener,
            self.log.open("wb") as log,
        ):
            self.port = listener.getsockname()[1]
            # Without pages, no browser has a reason to send requests. By default, any page may.
            own = {} if pages else {ORIGINS: f"http://127.0.0.1:{self.port}"}
            command = [sys.executable, "-m", "flows.server.server", str(listener.fileno())]
            self.process = subprocess.Popen(
                [*command, "pages"] if pages else command,
                pass_fds=[listener.fileno()],
                env=os.environ | own,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        atexit.register(self.stop)

    def wait(self) -> None:
        """Wait until the server responds.

        Raises:
            RuntimeError: The server did not start.
        """
        connection = http.client.HTTPConnection(
            connectable(self.host), self.port, timeout=STARTUP_SECONDS
        )
        try:
            connection.request("GET", "/api/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
            self.start_lock.close()
        raise RuntimeError(f"Prefect's server did not start; see {self.log}")

    def stop(self) -> None:
        assert self.process.stdin is not None  # noqa: S101
        self.start_lock.close()
        self.process.stdin.close()
        try:
            self.process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def connectable(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def main(descriptor: int, pages: bool) -> None:
    servers: list[Any] = []
    threading.Thread(target=exit_with_stdin, args=(servers,), daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    from flows.server.guard import ServerGuard

    app = create_app(ephemeral=not pages, final=True)
    if pages:
        from flows.server.pages import mount_reports

        mount_reports(app, Path.cwd(), os.environ.get(CREDENTIALS))
    config = uvicorn.Config(
        ServerGuard(app, os.environ.get(ORIGINS, "").split(",")),
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS // 2,
    )
    servers.append(uvicorn.Server(config))
    servers[0].run(sockets=[socket.socket(fileno=descriptor)])
    os._exit(0)  # all data is written, and the interpreter's own shutdown would take a second


def exit_with_stdin(servers: list[Any]) -> None:
    """End the process when standard input is closed, gracefully first to save the last states."""
    sys.stdin.buffer.read()
    if servers:
        servers[0].should_exit = True
        time.sleep(SHUTDOWN_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), "pages" in sys.argv[2:])
