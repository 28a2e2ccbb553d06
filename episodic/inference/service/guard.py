"""Checks that every request passes before a service sees it."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ANY_HOST", "LOOPBACK", "Limits", "RequestGuard"]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Host names of a service that only this machine reaches."""

ANY_HOST = "*"


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Args:
        request_bytes: Maximum size of the body of a request.
        buffered_bytes: Maximum size of the bodies of all requests in progress.
        body_seconds: Seconds within which the body of a request must arrive.
    """

    request_bytes: int = 32 << 20
    buffered_bytes: int = 256 << 20
    body_seconds: float = 30.0


class Rejection(Exception):
    """A request that is rejected with this status."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Disconnect(Exception):
    """The client closed the connection before its request was complete."""


class RequestGuard:
    """ASGI middleware that checks requests, reads their bodies and answers failures in JSON.

    Requests for other host names are rejected, which prevents access by web sites whose host name
    resolves to this machine (DNS rebinding), and so are requests of pages of another origin. Bodies
    are read completely, within limits of size and time, before the service starts to work on them.

    Args:
        app: The service.
        hosts: Accepted host names; `*` accepts any.
        limits: Limits of requests.
        token: What the header `Authorization: Bearer TOKEN` must contain; empty for no check.
        open_paths: Paths that need no token.
        is_draining: Whether the server is about to stop, which closes connections after the
            response.
        observe: Called after each request with its method, path, status and seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Sequence[str] = LOOPBACK,
        limits: Limits | None = None,
        token: str = "",
        open_paths: Collection[str] = (),
        is_draining: Callable[[], bool] = lambda: False,
        observe: Callable[[str, str, int, float], None] | None = None,
    ) -> None:
        self.app, self.hosts, self.limits = app, hosts, limits or Limits()
        self.token, self.open_paths = token, open_paths
        self.is_draining, self.observe = is_draining, observe
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        body = bytearray()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if self.is_draining():
                    headers["Connection"] = "close"
            await send(message)

        async def respond(error: Rejection) -> None:
            response = JSONResponse({"detail": error.detail}, error.status, error.headers)
            await response(scope, receive, send_with_headers)

        try:
            self._check_headers(scope)
            if scope["method"] not in ("GET", "HEAD"):
                await self._read_body(receive, body)
            await self.app(scope, replay(bytes(body), receive), send_with_headers)
        except Disconnect:
            pass
        except Rejection as error:
            await respond(error)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"error: {scope['method']} {scope['path']!r}: {reason}", file=sys.stderr)
            if not status:
                await respond(Rejection(500, "the service failed: its log names the reason"))
        finally:
            self._buffered -= len(body)
            if self.observe is not None and status:
                seconds = time.perf_counter() - start
                self.observe(scope["method"], scope["path"], status, seconds)

    def _check_headers(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        name = re.sub(r":\d*$", "", host).lower()
        if ANY_HOST not in self.hosts and name not in self.hosts:
            raise Rejection(400, f"the host {host[:100]!r} is not served here: use {self.hosts[0]}")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Rejection(403, f"requests from pages of {origin[:100]} are rejected")
        if self.token and scope["path"] not in self.open_paths:
            given = headers.get("authorization", "").encode()
            if not secrets.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Rejection(
                    401,
                    "the request needs the header Authorization: Bearer TOKEN with the token of"
                    " the service",
                    WWW_Authenticate="Bearer",
                )
        length = headers.get("content-length", "")
        # Longer numbers than int() reads are too large as well.
        if length.isdecimal() and (len(length) > 18 or int(length) > self.limits.request_bytes):
            raise self._too_large(f"{int(length[:19]) >> 20} MB")

    async def _read_body(self, receive: Receive, body: bytearray) -> None:
        """Read the body of a request, chunk by chunk."""
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnect
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    body += chunk
                    self._buffered += len(chunk)
                    if len(body) > self.limits.request_bytes:
                        raise self._too_large("more")
                    if self._buffered > self.limits.buffered_bytes:
                        raise Rejection(
                            503, "too much data is being received: try again", Retry_After="1"
                        )
        except TimeoutError:
            raise Rejection(
                408,
                f"the request did not arrive within {self.limits.body_seconds:g} seconds",
                Connection="close",
            ) from None

    def _too_large(self, size: str) -> Rejection:
        limit = self.limits.request_bytes >> 20
        return Rejection(413, f"the request has {size}; at most {limit} MB are accepted")


def replay(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI channel that provides a body that has been read, and then waits."""
    is_read = False

    async def receive_body() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body
