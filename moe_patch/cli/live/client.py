"""A client of a server's live interface, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from moe_patch.errors import ConfigError, MoePatchError
from moe_patch.io.http import Answer, is_server_address, send

_MAX_ANSWER_BYTES = 16 * 2**20


class ServerError(MoePatchError):
    """A running server cannot be reached, or refused a request.

    `code` is the server's own name for what went wrong, "" if it gave none; `details` is what it added.
    """

    def __init__(self, message: str, code: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.details = code, dict(details or {})


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
        if not is_server_address(self.url):
            raise ConfigError(f"{self.url}: expected an address such as http://localhost:8000")

    def stack(self, *, facts: bool = False) -> dict[str, Any]:
        """The server's patches, with each of their facts if they are asked for."""
        return self._call("GET", "stack?facts=true" if facts else "stack")

    def add(
        self,
        path: str,
        position: int | None,
        test: Mapping[str, Any],
        *,
        allow_large: bool = False,
        allow_conflicts: bool = False,
    ) -> dict[str, Any]:
        """Add a patch. `path` is a path on the server or a reference to the Hub."""
        body: dict[str, Any] = {"path": path, "self_test": dict(test), "allow_large": allow_large}
        if allow_conflicts:  # which older servers do not know
            body["allow_conflicts"] = True
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
        address = f"{self.url.rstrip('/')}/moe_patch/{path}"
        try:
            answer = send(
                method,
                address,
                seconds=self.seconds,
                most_bytes=_MAX_ANSWER_BYTES,
                token=self.token,
                body=body,
            )
        except ConnectionError as error:
            raise ServerError(f"{self.url} cannot be reached: {error}") from error
        if answer.success:
            return self._read(answer.body)
        complaint, code, details = _complaint(answer)
        if code == "unauthorized" and self.token is None:
            complaint = "no token was sent: give --token-file, or set MOE_PATCH_TOKEN (unauthorized)"
        raise ServerError(f"{self.url}: {complaint}", code, details)

    def _read(self, raw: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise ServerError(f"{self.url}: the answer is not JSON: is this a moe-patch server?") from error
        if not isinstance(answer, dict):
            raise ServerError(f"{self.url}: the answer is not a JSON object: is this a moe-patch server?")
        return answer


def _complaint(answer: Answer) -> tuple[str, str, dict[str, Any]]:
    """The server's error message, its code and its details."""
    try:
        told = json.loads(answer.body)["error"]
        message, code, details = f"{told['message']} ({told['code']})", str(told["code"]), told.get("details")
    except (ValueError, KeyError, TypeError):
        hint = ": does it run with live patches?" if answer.status == HTTPStatus.NOT_FOUND else ""
        return f"it answers {answer.complaint}{hint}", "", {}
    return message, code, details if isinstance(details, dict) else {}
