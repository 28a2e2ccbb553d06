"""A Prefect server for one run: on loopback, on a port of its own, gone when the run is.

Prefect would start one by itself, but that one survives a killed run, hears the terminal's Ctrl-C before the run has reported
its state, and has the run import the server's code as well. This one is a process that watches its standard input and ends with
it. The socket listens before the server does: whoever calls early waits in its queue, and nobody can take the port.
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

PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"  # noqa: S105 (the variable's name)
STARTUP = 120
GRACE = 10


class Server:
    """Started at once, ready after `wait`; ended at exit, after Prefect has sent what it still holds (so start it before the import)."""

    def __init__(self, home: Path, host: str = "127.0.0.1", port: int = 0, pages: bool = False):
        """pages: with the UI, the services that start scheduled runs, and the reports of the current folder. OSError: the port is taken."""
        home.mkdir(parents=True, exist_ok=True)
        self.log, self.host = home / "server.log", host
        # The first start makes the database: one at a time, until it answers.
        self.starting = (home / "start.lock").open("w")
        fcntl.flock(self.starting, fcntl.LOCK_EX)
        with (
            socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            ) as listener,
            self.log.open("wb") as log,
        ):
            self.port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "flows.server.server",
                    str(listener.fileno()),
                    *(["pages"] if pages else []),
                ],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        atexit.register(self.stop)

    def wait(self) -> None:
        """Until it answers; RuntimeError with one sentence when it does not."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host  # noqa: S104
        connection = http.client.HTTPConnection(host, self.port, timeout=STARTUP)
        try:
            connection.request("GET", "/api/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
            self.starting.close()
        raise RuntimeError(f"Prefect's server did not start; {self.log} says why")

    def stop(self) -> None:
        assert self.process.stdin is not None  # noqa: S101
        self.starting.close()
        self.process.stdin.close()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main(descriptor: int, pages: bool) -> None:
    servers: list[Any] = []
    threading.Thread(target=end_with_stdin, args=(servers,), daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=not pages, final=True)
    if pages:
        from flows.server import pages as reports

        reports.serve(app, Path.cwd(), os.environ.get(PASSWORD))
    config = uvicorn.Config(
        app, log_level="error", lifespan="on", timeout_graceful_shutdown=GRACE // 2
    )
    servers.append(uvicorn.Server(config))
    servers[0].run(sockets=[socket.socket(fileno=descriptor)])
    os._exit(0)  # all is written; taking the interpreter apart would be a second of waiting


def end_with_stdin(servers: list[Any]) -> None:
    """A served run's last states are still on their way to the database: first the good end, then the other one."""
    sys.stdin.buffer.read()
    if servers:
        servers[0].should_exit = True
        time.sleep(GRACE)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), "pages" in sys.argv[2:])
