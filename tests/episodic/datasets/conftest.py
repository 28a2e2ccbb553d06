"""A local web server that makes downloads fail in every way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Response = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Sends `responses` one by one, the last one repeatedly, and records the requested `paths`."""

    responses: list[Response]
    paths: list[str]
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @staticmethod
    def sends(body: bytes, announced: int | None = None, length: bool = True) -> Response:
        """Send status 200 and a body, with `announced` as its length."""

        def respond(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            if length:
                handler.send_header(
                    "Content-Length", str(len(body) if announced is None else announced)
                )
            handler.end_headers()
            handler.wfile.write(body)

        return respond

    @staticmethod
    def fails(code: int) -> Response:
        return lambda handler: handler.send_error(code)

    def handle_error(self, request, client_address) -> None:
        pass  # a client that goes away is part of the tests


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        responses = self.server.responses
        (responses.pop(0) if len(responses) > 1 else responses[0])(self)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.responses, running.paths = [running.fails(404)], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
