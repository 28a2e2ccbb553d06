"""Starts Prefect's UI, serves the deployments of prefect.yaml, and prints the address.

Ctrl-C ends the server and all runs that it has started. An address beyond loopback needs a password
and a list of the addresses that browsers may come from.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from flows import environment
from flows.server import session
from flows.server.server import CREDENTIALS, Server
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
"""Prefect's variable with the addresses that browsers may come from."""

MAX_RUNS = 4
"""Flow runs at the same time."""


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
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, loopback)"
    )
    parser.add_argument(
        "--port", type=parse_port, default=4200, help="port to listen at (default: 4200)"
    )
    return parser


def parse_port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is no port; it must be a whole number between 1 and 65535"
        )
    return int(text)


def run(root: Path, host: str, port: int) -> int:
    check_access(host)
    environment.set_defaults(root)
    if environment.has_server():
        name = "PREFECT_API_URL" if os.environ.get("PREFECT_API_URL") else "PREFECT_PROFILE"
        raise StageError(
            f"{name} is {os.environ[name]!r}: unset it, since this command starts its own server"
        )
    url = public_url(host, port)
    # By default, Prefect's pages call port 4200 whatever port the server listens at.
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", f"{url}/api")
    os.environ["PREFECT_API_URL"] = f"{local_url(host, port)}/api"
    # By default, pages of any site may call the server.
    os.environ.setdefault(ORIGINS, url)
    os.environ[environment.PAGES_URL] = url
    os.environ[environment.PARENT_PID] = str(os.getpid())
    if credentials := os.environ.get(CREDENTIALS):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", credentials)
    try:
        server = Server(Path(os.environ["PREFECT_HOME"]), host, port, pages=True)
    except OSError as error:
        raise StageError(
            f"port {port} of {host} cannot be used ({error.strerror}):"
            " end the program that listens there, or choose another port with --port"
        ) from error
    try:
        from prefect import serve

        from flows.server import stale_runs

        deployments = load_deployments(root)
        server.wait()
        stale_runs.mark_crashed()
        print(f"Prefect's UI: {url} (Ctrl-C ends it)", flush=True)
        serve(*deployments, pause_on_shutdown=False, print_starting_message=False, limit=MAX_RUNS)
    finally:
        server.stop()
    return 0


def check_access(host: str) -> None:
    """Check that a server beyond loopback has a password and names its browsers' addresses.

    Raises:
        StageError: It does not.
    """
    if is_loopback(host):
        return
    missing = [name for name in (CREDENTIALS, ORIGINS) if not os.environ.get(name)]
    if missing:
        raise StageError(
            f"--host {host} can be reached from other machines: set {' and '.join(missing)} first,"
            f" such as {CREDENTIALS}=admin:PASSWORD and {ORIGINS}=http://HOST:PORT"
        )
    if ":" not in os.environ[CREDENTIALS]:
        raise StageError(f"{CREDENTIALS} must be a name and a password, such as admin:PASSWORD")
    if not os.environ[ORIGINS].startswith(("http://", "https://")):
        raise StageError(
            f"{ORIGINS} must be the addresses at which browsers reach this server,"
            " such as http://HOST:PORT"
        )


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine alone.

    Raises:
        StageError: `host` is no address.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise StageError(
            f"--host {host} is no address: use one of this machine, such as 127.0.0.1"
        ) from error


def local_url(host: str, port: int) -> str:
    """The server's address for processes on this machine."""
    if host == "0.0.0.0":  # noqa: S104
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def public_url(host: str, port: int) -> str:
    """The server's address for browsers, which other machines know by the allowed origin."""
    if is_loopback(host):
        return local_url(host, port)
    return os.environ[ORIGINS].split(",")[0].strip().rstrip("/")


def load_deployments(root: Path) -> list[Any]:
    """Return the deployments of prefect.yaml as Prefect's runner takes them."""
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
