"""A stand-in for an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.stand_in import StandIn, StandInHandler, answering


class JudgeServer(StandIn):
    """Replies to each user's message with what `reply` makes of it, and remembers what it was sent."""

    def __init__(self, reply: Callable[[str], Any]) -> None:
        super().__init__(_Handler)
        self.reply = reply
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"{super().url}/v1"


class _Handler(StandInHandler):
    server: JudgeServer

    def answer(self) -> None:
        body = json.loads(self.body())
        sent = {"path": self.path, "key": self.headers.get("Authorization"), **body}
        self.server.requests.append(sent)
        content = self.server.reply(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        answer = whole | {"choices": [choice]} if content != "nothing" else {"choices": []}
        status = {"error": 500, "busy": 429}.get(content, 200)
        self.reply(status, answer, {"Content-Type": "application/json"})


@contextmanager
def judge_server(reply: Callable[[str], Any]) -> Iterator[JudgeServer]:
    """A running server."""
    with answering(JudgeServer(reply)) as server:
        yield server
