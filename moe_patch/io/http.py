"""One HTTP request and its answer, which is read up to a bound and never redirected.

A redirect would take a token or a key to whom it was not given; here it is an answer like any other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx2

from moe_patch.io.plain_text import plain_text

_SAID = 300  # characters of an error's text that are shown


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers."""

    status: int
    reason: str
    body: bytes

    @property
    def success(self) -> bool:
        """Whether the request was done."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def complaint(self) -> str:
        """The status of an answer that is no success and what the server says of it, in one line."""
        status = f"{self.status} {plain_text(self.reason)}".strip()
        said = " ".join(_message(self.body).split())
        return status if said in ("", self.reason) else f"{status}: {plain_text(said, _SAID)}"


def is_server_address(url: str) -> bool:
    """Whether this is the address of a server, to which paths can be added and in which no secret stands."""
    try:
        parts = urlsplit(url)
    except ValueError:  # of brackets that are not closed, for one
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.query or parts.username)


def send(
    method: str, url: str, *, seconds: float, most_bytes: int, token: str | None = None, body: Any = None
) -> Answer:
    """Send a request, and read the answer.

    Args:
        method: GET, POST, ...
        url: where to.
        seconds: how long nothing may happen.
        most_bytes: of the answer; the rest is not read.
        token: sent as a bearer token.
        body: sent as JSON; None for none.

    Raises:
        ConnectionError: there is no answer, or the token cannot be sent. The message says why.
    """
    headers = {b"Accept-Encoding": b"identity"}  # what is compressed can be of any size
    if token is not None:
        if not token.isprintable():  # the client's own error would show it
            raise ConnectionError("a token with control characters cannot be sent")
        headers[b"Authorization"] = b"Bearer " + token.encode()
    try:
        with httpx2.stream(
            method, url, headers=headers, json=body, timeout=seconds, follow_redirects=False
        ) as answer:
            return Answer(answer.status_code, answer.reason_phrase, _start(answer, most_bytes))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def _start(answer: httpx2.Response, most_bytes: int) -> bytes:
    found = bytearray()
    for part in answer.iter_raw():
        found += part
        if len(found) >= most_bytes:
            break
    return bytes(found[:most_bytes])


def _message(body: bytes) -> str:
    """The message in an error's body: OpenAI's form, FastAPI's, or the text itself; "" of a page of HTML."""
    text = body.decode(errors="replace").strip()
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else text
    for name in ("error", "message", "detail"):
        told = told.get(name, told) if isinstance(told, dict) else told
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
