"""Servers on this machine that stand in for real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple, TypeVar


class StandIn(ThreadingHTTPServer):
    """A server on a port that was free, with a handler that is a `StandInHandler`."""

    daemon_threads = True

    def __init__(self, handler: type[StandInHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class StandInHandler(BaseHTTPRequestHandler):
    """Reads and writes whole bodies. A stand-in says in `answer` what it does with a request."""

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815  the names that http.server calls

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, body: bytes | dict[str, Any], headers: Mapping[str, str] = {}) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """The test's output is for the test."""


AnyStandIn = TypeVar("AnyStandIn", bound=StandIn)


@contextmanager
def answering(server: AnyStandIn) -> Iterator[AnyStandIn]:
    """The server, answering until the block ends."""
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Prepared(StandIn):
    """Gives every request one prepared answer, and remembers the requests."""

    def __init__(self, status: int, body: bytes | dict[str, Any]) -> None:
        super().__init__(_PreparedHandler)
        self.status, self.body = status, body
        self.headers: dict[str, str] = {}
        self.asked: list[Asked] = []


class _PreparedHandler(StandInHandler):
    server: Prepared

    def answer(self) -> None:
        self.server.asked.append(Asked(self.command, self.path, dict(self.headers), self.body()))
        self.reply(self.server.status, self.server.body, self.server.headers)
