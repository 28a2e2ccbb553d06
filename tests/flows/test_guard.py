"""Requests for other host names and of pages of other sites, at the guard and at real servers."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.server.guard import ServerGuard
from flows.ui import __main__ as ui

Header = tuple[str, str]

OWN = "http://127.0.0.1:4200"


def ask(
    *headers: Header,
    method: str = "GET",
    kind: str = "http",
    origins: str = OWN,
    address: str = "127.0.0.1",
) -> tuple[int, str]:
    """The status and text of the response, which is 200 and "served" if the request passes.

    Args:
        headers: Headers, in order.
        method: HTTP method.
        kind: "http" or "websocket".
        origins: The allowed origins, separated by commas.
        address: Address at which the connection arrives.
    """
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": kind,
        "method": method,
        "path": "/",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "server": (address, 4200),
        "extensions": {"websocket.http.response": {}},
    }
    guard = ServerGuard(PlainTextResponse("served"), origins.split(","))
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    return messages[0]["status"], b"".join(m.get("body", b"") for m in messages).decode()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:4200", "localhost:8080", "LocalHost", "[::1]:4200", "[::1]"],
)
def test_names_of_loopback_pass(host):
    assert ask(("host", host)) == (200, "served")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4200",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "localhost.",
        "evil.example#127.0.0.1",
        "127.0.0.1@evil.example",
        "0.0.0.0:4200",
        "::1",
        "10.0.0.5:4200",
        "*",
        " 127.0.0.1",
        "127.0.0.1:4200:1",
        "\u00e9.example",
    ],
)
def test_other_hosts_are_rejected(host):
    for kind in ("http", "websocket"):
        status, text = ask(("host", host), kind=kind)
        assert status == 421
        assert json.loads(text)["detail"].endswith(
            f"is not a name of this server: use {OWN}, or add its URL to {ui.ORIGINS}"
        )


def test_a_request_has_one_host():
    assert ask()[0] == ask(("host", ""))[0] == 421
    status, text = ask(("host", "127.0.0.1"), ("host", "evil.example"))
    assert (status, json.loads(text)["detail"]) == (
        421,
        "the request must have one header Host: HOST:PORT",
    )
    proxied = [("host", "127.0.0.1"), ("x-forwarded-host", "evil.example")]
    assert ask(*proxied)[0] == 200
    proxied = [("host", "evil.example"), ("x-forwarded-host", "127.0.0.1")]
    assert ask(*proxied)[0] == 421


def test_a_server_for_other_machines_has_the_names_of_its_origins_and_its_address():
    origins = "http://Lab.example:4200/, https://prefect.example"
    for host in ("lab.example:4200", "LAB.example", "prefect.example", "localhost:4200"):
        assert ask(("host", host), origins=origins)[0] == 200
    # A container does not know the address of the port that Docker publishes.
    assert ask(("host", "172.17.0.2:4200"), origins=origins, address="172.17.0.2")[0] == 200
    assert ask(("host", "[fd00::7]:4200"), origins=origins, address="fd00::7")[0] == 200
    status, text = ask(("host", "10.0.0.5:4200"), origins=origins, address="172.17.0.2")
    assert status == 421 and "use http://lab.example:4200, or add" in text
    for origins in ("*", "", "lab"):
        assert ask(("host", "lab"), origins=origins)[0] == 421
        assert ask(("host", "127.0.0.1"), ("origin", "*"), origins=origins)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:8080"])
@pytest.mark.parametrize(
    ("method", "kind"), [("GET", "http"), ("POST", "http"), ("PATCH", "http"), ("GET", "websocket")]
)
def test_pages_of_other_origins_are_rejected(host, method, kind):
    """A form that a page submits has an origin too, which is null for some pages."""
    options = {"method": method, "kind": kind}
    for origin in (
        "http://evil.example",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "http://127.0.0.1:4200.evil.example",
        "null",
        "",
        "http://evil.example, http://127.0.0.1:4200",
    ):
        status, text = ask(("host", host), ("origin", origin), **options)
        assert status == 403
        assert json.loads(text)["detail"].startswith(
            f"requests of pages of {origin!r} are rejected"
        )
    both = [("origin", OWN), ("origin", "http://evil.example")]
    assert ask(("host", host), *both, **options)[0] == 403
    for origin in (OWN, f"http://{host}", f"https://{host}"):
        assert ask(("host", host), ("origin", origin), **options) == (200, "served")
    assert ask(("host", host), **options) == (200, "served"), "a program sends no origin"


def test_the_server_of_a_run_rejects_pages_and_accepts_programs(api: str):
    assert httpx.post(f"{api}/flow_runs/filter", json={}).status_code == 200
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null", "Content-Type": "text/plain"}, 403),
    ):
        response = httpx.post(f"{api}/flow_runs/filter", content="{}", headers=headers)
        assert response.status_code == status
        assert "access-control-allow-origin" not in response.headers
    response = httpx.get(f"{api}/health", headers={"Origin": "http://evil.example"})
    assert response.status_code == 403 and "access-control-allow-origin" not in response.headers

    address = f"{api.replace('http', 'ws')}/events/in"
    with connect(address):
        pass
    server = httpx.URL(api)
    for uri, origin, status in (
        (address, "http://evil.example", 403),
        ("ws://evil.example/api/events/in", None, 421),
    ):
        connection = socket.create_connection((server.host, server.port))
        with (
            pytest.raises(InvalidStatus) as rejected,
            connect(uri, origin=origin, sock=connection),
        ):
            pass
        assert rejected.value.response.status_code == status


def test_addresses_of_this_machine():
    """A server on all addresses is reached at one that it knows as its own name."""
    assert ui.local_url("0.0.0.0", 4200) == OWN  # noqa: S104
    assert ui.local_url("::", 4200) == "http://[::1]:4200"
    assert ui.local_url("10.0.0.5", 4200) == "http://10.0.0.5:4200"
