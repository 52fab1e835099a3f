"""A client of a server's live interface, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

from moe_patch.errors import ConfigError, MoePatchError

_MAX_ANSWER_BYTES = 16 * 2**20


class ServerError(MoePatchError):
    """A running server cannot be reached, or refused a request."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirect must not receive the token."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class LiveClient:
    """A client of one running server. Every request may raise `ServerError`."""

    url: str
    token: str | None = field(default=None, repr=False)
    seconds: float = 900.0  # timeout; longer than a server waits for its running requests

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            ConfigError: `url` is not the address of a server.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
            raise ConfigError(f"{self.url}: expected an address such as http://localhost:8000")

    def stack(self) -> dict[str, Any]:
        """The server's patches."""
        return self._call("GET", "stack")

    def add(
        self, path: str, position: int | None, test: Mapping[str, Any], allow_large: bool = False
    ) -> dict[str, Any]:
        """Add a patch. `path` is a path on the server or a reference to the Hub."""
        body = {"path": path, "self_test": dict(test), "allow_large": allow_large}
        return self._call("POST", "patches", body if position is None else body | {"position": position})

    def remove(self, patch: str) -> dict[str, Any]:
        """Remove a patch, given by its name, its hash, or the beginning of its hash."""
        return self._call("DELETE", f"patches/{quote(patch, safe='')}")

    def reorder(self, patches: list[str]) -> dict[str, Any]:
        """Put all live patches into another order, the lowest first."""
        return self._call("POST", "reorder", {"patches": patches})

    def rollback(self, test: Mapping[str, Any]) -> dict[str, Any]:
        """Undo the last change."""
        return self._call("POST", "rollback", {"self_test": dict(test)})

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer; a ServerError with the server's message if it is not a success."""
        request = urllib.request.Request(f"{self.url.rstrip('/')}/moe_patch/{path}", method=method)
        if self.token is not None:
            request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(_NoRedirects())
        try:
            with opener.open(request, timeout=self.seconds) as answer:
                return self._read(answer.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            raise ServerError(f"{self.url}: {_complaint(error)}") from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise ServerError(f"{self.url} cannot be reached: {reason}") from error

    def _read(self, raw: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise ServerError(f"{self.url}: the answer is not JSON: is this a moe-patch server?") from error
        if not isinstance(answer, dict):
            raise ServerError(f"{self.url}: the answer is not a JSON object: is this a moe-patch server?")
        return answer


def _complaint(error: urllib.error.HTTPError) -> str:
    """The server's error message."""
    try:
        told = json.loads(error.read(_MAX_ANSWER_BYTES))["error"]
        return f"{told['message']} ({told['code']})"
    except (ValueError, KeyError, TypeError, OSError):
        hint = ": does it run with live patches?" if error.code == 404 else ""
        return f"it answers {error.code} {error.reason}{hint}"
