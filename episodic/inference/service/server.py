"""The HTTP server: slow clients cannot hold it, and it finishes what it took before it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from episodic.core.errors import UserError

__all__ = ["address_of", "is_loopback", "open_listener", "run_server"]

HEADER_SECONDS = 10.0
"""Seconds within which the header of a request must arrive."""
KEEP_ALIVE_SECONDS = 5
"""Seconds after which a connection without a request is closed."""
MAX_CONNECTIONS = 500
"""Below the number of files that a process may have open, usually 1,024."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a time limit of headers and a limit of connections.

    When there are too many connections, the one that has waited longest for a header is closed.
    """

    header_seconds = HEADER_SECONDS
    max_connections = MAX_CONNECTIONS

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._update_timer()
        if len(self.connections) > self.max_connections:
            waiting: list[Any] = [
                connection
                for connection in self.connections
                if getattr(connection, "_header_timer", None) is not None
            ]
            oldest = min(waiting, key=lambda connection: connection._header_timer.when())
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in JSON, as all other errors."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # the response to an earlier request is in progress
            return
        self.transport.write(_bare_response("400 Bad Request", "the request is not valid HTTP/1.1"))
        self.transport.close()

    def _update_timer(self) -> None:
        """Wait for a header, unless a request is in progress."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.header_seconds, self._end_waiting)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_waiting(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self.transport.abort()


def _bare_response(status: str, detail: str) -> bytes:
    body = json.dumps({"detail": detail}).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body


class DrainingServer(uvicorn.Server):
    """A server that stops cleanly at SIGTERM and SIGINT.

    It refuses new connections, answers the requests of open ones, asks them to close after the
    response, and then returns. Requests on a connection that has been idle for longer than
    `drain_seconds` may find it closed, as with any HTTP server.
    """

    drain_seconds = 1.0

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_drain = on_drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + self.drain_seconds
        while self.server_state.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, without raising them again at the end, since the stop is a success."""
        handled = (signal.SIGINT, signal.SIGTERM)
        handlers = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to stop; a second Ctrl-C stops at once."""
        self.on_drain()
        super().handle_exit(sig, frame)


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_listener(host: str, port: int) -> socket.socket:
    """Open a socket to listen on.

    Args:
        host: The address.
        port: The port; 0 for a free one.

    Raises:
        UserError: The address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
        # Connections inherit it. Otherwise the second packet of a response waits for 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror or error}): choose another,"
            f" such as --port {port % 65535 + 1}"
        ) from error


def address_of(host: str, listener: socket.socket) -> str:
    """Return the address of a listener, as a browser opens it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def run_server(
    service: ASGIApp,
    listener: socket.socket,
    on_drain: Callable[[], None] = lambda: None,
    stop_seconds: int = 30,
) -> None:
    """Run a service until SIGTERM or SIGINT.

    Args:
        service: The service.
        listener: The socket, which is closed at the end.
        on_drain: Called when the server begins to stop.
        stop_seconds: Seconds that requests in progress have to finish.
    """
    config = uvicorn.Config(
        service,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=stop_seconds,
    )
    with listener:
        DrainingServer(config, on_drain).run(sockets=[listener])
