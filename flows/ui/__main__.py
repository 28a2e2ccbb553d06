"""Start Prefect's UI, serve the deployments of prefect.yaml, and print the URL.

Ctrl-C ends the server and all runs that it has started. To be reachable from other machines, the
server needs a password and a list of allowed origins.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from flows import environment
from flows.environment import ORIGINS
from flows.server import session
from flows.server.server import CREDENTIALS, Server, connectable
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

MAX_RUNS = 4
"""Maximum number of concurrent flow runs."""


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return session.run_command(lambda root: run(root, options.host, options.port))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.ui",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, loopback)"
    )
    parser.add_argument(
        "--port", type=parse_port, default=4200, help="port to listen on (default: 4200)"
    )
    return parser


def parse_port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is not a valid port; it must be an integer between 1 and 65535"
        )
    return int(text)


def run(root: Path, host: str, port: int) -> int:
    check_access(host)
    environment.set_defaults(root)
    if environment.has_server():
        name = "PREFECT_API_URL" if os.environ.get("PREFECT_API_URL") else "PREFECT_PROFILE"
        raise StageError(
            f"{name} is set to {os.environ[name]!r}; unset it, because this command starts its own"
            " server"
        )
    url = public_url(host, port)
    # By default, Prefect's pages call port 4200, even if the server uses another port.
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", f"{url}/api")
    os.environ["PREFECT_API_URL"] = f"{local_url(host, port)}/api"
    # By default, the server accepts requests from pages of any site.
    os.environ.setdefault(ORIGINS, url)
    os.environ[environment.PAGES_URL] = url
    os.environ[environment.PARENT_PID] = str(os.getpid())
    if credentials := os.environ.get(CREDENTIALS):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", credentials)
    try:
        server = Server(Path(os.environ["PREFECT_HOME"]), host, port, pages=True)
    except OSError as error:
        raise StageError(
            f"cannot listen on {host}:{port} ({error.strerror}); stop the process that"
            " uses the port, or choose another one with --port"
        ) from error
    try:
        from prefect import serve

        from flows.server import stale_runs

        deployments = load_deployments(root)
        server.wait()
        stale_runs.mark_crashed()
        print(f"Prefect's UI: {url} (Ctrl-C to stop)", flush=True)
        serve(*deployments, pause_on_shutdown=False, print_starting_message=False, limit=MAX_RUNS)
    finally:
        server.stop()
    return 0


def check_access(host: str) -> None:
    """Check that a server reachable from other machines has credentials and allowed origins.

    Raises:
        StageError: Credentials or origins are missing or invalid.
    """
    if is_loopback(host):
        return
    missing = [name for name in (CREDENTIALS, ORIGINS) if not os.environ.get(name)]
    if missing:
        raise StageError(
            f"--host {host} can be reached from other machines; set {' and '.join(missing)} first,"
            f" such as {CREDENTIALS}=admin:PASSWORD and {ORIGINS}=http://HOST:PORT"
        )
    if ":" not in os.environ[CREDENTIALS]:
        raise StageError(
            f"{CREDENTIALS} is not NAME:PASSWORD; set it to a value such as admin:PASSWORD"
        )
    if not os.environ[ORIGINS].startswith(("http://", "https://")):
        raise StageError(
            f"{ORIGINS} is {os.environ[ORIGINS]!r}; it must be the URL at which browsers reach this"
            " server, such as http://HOST:PORT"
        )


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached only from this machine.

    Raises:
        StageError: `host` is not an IP address.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise StageError(
            f"--host {host} is not an IP address; use an address of this machine, such as 127.0.0.1"
        ) from error


def local_url(host: str, port: int) -> str:
    """Return the server's URL for processes on this machine."""
    host = connectable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def public_url(host: str, port: int) -> str:
    """Return the server's URL for browsers.

    This is the first allowed origin if other machines can reach the server.
    """
    if is_loopback(host):
        return local_url(host, port)
    return os.environ[ORIGINS].split(",")[0].strip().rstrip("/")


def load_deployments(root: Path) -> list[Any]:
    """Return the deployments of prefect.yaml as arguments of `prefect.serve`."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron

    deployments = []
    for entry in read_yaml(root / "prefect.yaml")["deployments"]:
        flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
        schedules = [
            Cron(schedule["cron"], timezone=schedule["timezone"], active=schedule["active"])
            for schedule in entry.get("schedules", [])
        ]
        limit = entry.get("concurrency_limit")
        deployments.append(
            flow.to_deployment(
                name=entry["name"],
                description=entry["description"],
                parameters=entry["parameters"],
                schedules=schedules or None,
                concurrency_limit=ConcurrencyLimitConfig(**limit) if limit else None,
            )
        )
    return deployments


if __name__ == "__main__":
    sys.exit(main())
