"""Prefect's UI: `python -m flows.ui` starts a server, serves the deployments of prefect.yaml and prints the address.

Ctrl-C ends all of it. Beyond loopback it refuses to start without a password and the addresses that browsers may come from.
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
from flows.server.server import PASSWORD, Server
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

AUTH, ORIGINS = PASSWORD, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return session.command(lambda root: run(root, options.host, options.port))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m flows.ui",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen (default: 127.0.0.1, this machine alone)",
    )
    result.add_argument("--port", type=port, default=4200, help="default: 4200")
    return result


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number between 1 and 65535")
    return int(text)


def run(root: Path, host: str, port: int) -> int:
    guard(host)
    environment.prepare(root)
    if environment.has_server():
        raise StageError(
            f"PREFECT_API_URL is {os.environ.get('PREFECT_API_URL')!r}: unset it, since this starts a server of its own"
        )
    home = Path(os.environ.setdefault("PREFECT_HOME", str(root / ".prefect")))
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else f'[{host}]' if ':' in host else host}:{port}"  # noqa: S104
    # Browsers elsewhere know this machine by the address that they may come from.
    pages = address if is_loopback(host) else os.environ[ORIGINS].split(",")[0].strip().rstrip("/")
    # The pages call this address; Prefect would have them call port 4200 whatever the port is.
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", f"{pages}/api")
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    os.environ.setdefault(
        ORIGINS, pages
    )  # Prefect's default lets pages of any site ask this server
    os.environ[environment.PAGES] = pages
    os.environ[environment.RUNNER] = str(os.getpid())
    if auth := os.environ.get(AUTH):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", auth)
    try:
        server = Server(home, host, port, pages=True)
    except OSError as error:
        raise StageError(
            f"port {port} of {host} cannot be used ({error.strerror}): end what listens there, or choose another with --port"
        ) from error
    try:
        from prefect import serve

        from flows.server import stale_runs

        served = deployments(root)
        server.wait()
        stale_runs.mark_crashed()
        print(f"Prefect's UI: {pages} (Ctrl-C ends it)", flush=True)
        serve(*served, pause_on_shutdown=False, print_starting_message=False, limit=4)
    finally:
        server.stop()
    return 0


def guard(host: str) -> None:
    """StageError unless the server listens on loopback alone or asks for a password and names its browsers."""
    lacking = [name for name in (AUTH, ORIGINS) if not os.environ.get(name)]
    if not is_loopback(host) and not lacking and ":" not in os.environ[AUTH]:
        raise StageError(f"{AUTH} must be a name and a password, as admin:PASSWORD")
    if (
        not is_loopback(host)
        and not lacking
        and not os.environ[ORIGINS].startswith(("http://", "https://"))
    ):
        raise StageError(
            f"{ORIGINS} must be the addresses at which browsers know this server, as http://HOST:PORT"
        )
    if not is_loopback(host) and lacking:
        raise StageError(
            f"--host {host} can be reached by others: set {' and '.join(lacking)} first, as {AUTH}=admin:PASSWORD and {ORIGINS}=http://HOST:PORT"
        )


def is_loopback(host: str) -> bool:
    """StageError if `host` is no address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise StageError(
            f"--host {host} is no address: give one of this machine, as 127.0.0.1"
        ) from error


def deployments(root: Path) -> list[Any]:
    """Those of prefect.yaml, as Prefect's runner takes them."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron

    made = []
    for said in read_yaml(root / "prefect.yaml")["deployments"]:
        flow: Any = load_flow_from_entrypoint(said["entrypoint"])
        schedules = [
            Cron(s["cron"], timezone=s["timezone"], active=s["active"])
            for s in said.get("schedules", [])
        ]
        limit = said.get("concurrency_limit")
        made.append(
            flow.to_deployment(
                name=said["name"],
                description=said["description"],
                parameters=said["parameters"],
                schedules=schedules or None,
                concurrency_limit=ConcurrencyLimitConfig(**limit) if limit else None,
            )
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
