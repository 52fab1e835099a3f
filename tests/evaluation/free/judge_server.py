"""A stand-in for an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class JudgeServer(ThreadingHTTPServer):
    """Replies to each user's message with what `reply` makes of it, and remembers what it was sent."""

    def __init__(self, reply: Callable[[str], Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sent = {"path": self.path, "key": self.headers.get("Authorization"), **body}
        self.server.requests.append(sent)
        content = self.server.reply(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        raw = json.dumps(whole | {"choices": [choice]} if content != "nothing" else {"choices": []}).encode()
        self.send_response({"error": 500, "busy": 429}.get(content, 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def judge_server(reply: Callable[[str], Any]) -> Iterator[JudgeServer]:
    """A running server, on a port that was free."""
    with JudgeServer(reply) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
