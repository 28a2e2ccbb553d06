"""Checks that every request passes before Prefect's server or its reports see it.

A browser sends requests of any web page to this machine. Those of other sites are rejected, also if
their host name resolves to this machine (DNS rebinding): the API can start runs, and a server on
loopback has no password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from episodic.inference.service.guard import LOOPBACK
from flows.environment import ORIGINS


class ServerGuard:
    """ASGI middleware that rejects requests for other host names and of pages of other origins.

    The server's names are those of loopback, the address at which a connection arrives, and the
    hosts of the allowed origins. Programs send no origin and are not affected by it.

    Args:
        app: The server.
        origins: Allowed origins, such as `http://HOST:PORT`. `*` allows none.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str] = ()) -> None:
        self.app = app
        stripped = (origin.strip().rstrip("/").lower() for origin in origins)
        self.origins = [origin for origin in stripped if urlsplit(origin).hostname]
        self.hosts = {*LOOPBACK, *(host_name(urlsplit(origin).netloc) for origin in self.origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the server, or reject it."""

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A page of another site could place an invisible frame under the pointer.
                headers = MutableHeaders(scope=message)
                headers.append("Content-Security-Policy", "frame-ancestors 'self'")
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif rejection := self._check(scope):
            await rejection(scope, receive, send)
        else:
            await self.app(scope, receive, send_unframed)

    def _check(self, scope: Scope) -> JSONResponse | None:
        """Return the response to a request that is rejected."""
        headers = Headers(scope=scope)
        host, *others = headers.getlist("host") or [""]
        if others or not host:
            return reject(421, "the request must have one header Host: HOST:PORT")
        if host_name(host) not in self.hosts | {local_address(scope)}:
            address = (self.origins or [f"http://{LOOPBACK[0]}"])[0]
            return reject(
                421,
                f"the host {host[:100]!r} is not a name of this server: use {address}, or add its"
                f" URL to {ORIGINS}",
            )
        # The page is this server's if its origin has the host of the request.
        allowed = [*self.origins, f"http://{host.lower()}", f"https://{host.lower()}"]
        for origin in headers.getlist("origin"):
            if origin.lower() not in allowed:
                return reject(
                    403,
                    f"requests of pages of {origin[:100]!r} are rejected: use the pages of this"
                    f" server, or add that URL to {ORIGINS}",
                )
        return None


def reject(status: int, detail: str) -> JSONResponse:
    """Return a response with a sentence about the rejection, as Prefect's API has it."""
    return JSONResponse({"detail": detail}, status)


def host_name(authority: str) -> str:
    """Return the host of `HOST:PORT` in lower case. An IPv6 address keeps its brackets."""
    return re.sub(r":\d*$", "", authority).lower()


def local_address(scope: Scope) -> str:
    """Return the address of this machine at which the connection arrived, as in a URL."""
    address = str((scope.get("server") or ("",))[0])
    return f"[{address}]" if ":" in address else address
