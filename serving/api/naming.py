"""Every response names the weights: a header on all of them, and a field of each model in `/v1/models`.

A response that was generated names the weights that generated it. Its headers therefore wait for its first
byte: a request that streams has to pass the gate before anybody knows which weights will answer it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pydantic import JsonValue
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_patch_serving.api.coordinator import Coordinator
from moe_patch_serving.api.members import member_hashes

HEADER = "x-moe-patch-weights"
FIELD = "moe_patch"

UNKNOWN = "unknown"
"""What is named once a change failed and could not be undone."""

_MODELS = "/v1/models"

_generated: ContextVar[list[str] | None] = ContextVar("versions that answer this request", default=None)


def note_generation(version: str) -> None:
    """Note that weights of this version begin to answer the present request, or one of its prompts."""
    versions = _generated.get()
    if versions is not None and version not in versions:
        versions.append(version)


class NamedWeights:
    """An ASGI middleware that names the weights."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        operations = getattr(scope["app"].state, "moe_patch", None) if scope["type"] == "http" else None
        if operations is None:  # a web socket, or the beginning and the end of the server
            await self._app(scope, receive, send)
            return
        versions: list[str] = []
        response = _NamedResponse(send, lambda: _header(operations.coordinator, versions))
        if scope["method"] == "GET" and scope["path"].endswith(_MODELS):
            response = _NamedModels(send, response.header, lambda: _field(operations.coordinator))
        token = _generated.set(versions)
        try:
            await self._app(scope, receive, response.pass_on)
        finally:
            _generated.reset(token)


class _NamedResponse:
    """Passes a response on, with the header that is known when its body begins."""

    def __init__(self, send: Send, header: Callable[[], str]) -> None:
        self._send, self.header = send, header
        self._start: Message | None = None

    async def pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            self._start.setdefault("headers", [])
            MutableHeaders(scope=self._start)[HEADER] = self.header()
            start, self._start = self._start, None
            await self._send(start)
        await self._send(message)


class _NamedModels(_NamedResponse):
    """The list of models, with a field more for each."""

    def __init__(self, send: Send, header: Callable[[], str], field: Callable[[], JsonValue]) -> None:
        super().__init__(send, header)
        self._field, self._body = field, b""

    async def pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body", False):
                return
            body = _with_field(self._body, self._field())
            if self._start is not None:
                MutableHeaders(scope=self._start)["content-length"] = str(len(body))
            message = {**message, "body": body}
        await super().pass_on(message)


def _with_field(body: bytes, value: JsonValue) -> bytes:
    """A list of models with the field in each; another body, such as an error, as it is."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return body
    models = found.get("data") if isinstance(found, dict) else None
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        return body
    return json.dumps(found | {"data": [model | {FIELD: value} for model in models]}).encode()


def _header(coordinator: Coordinator, versions: list[str]) -> str:
    """The versions that generated a response, or the present one."""
    if not coordinator.agree:
        return UNKNOWN
    return ", ".join(versions) or coordinator.version


def _field(coordinator: Coordinator) -> JsonValue:
    """The weights, and the hashes of the patches in them; names may tell more than clients should know."""
    return {
        "weights": coordinator.version if coordinator.agree else UNKNOWN,
        "patches": list(member_hashes(coordinator.standing.members)),
    }
