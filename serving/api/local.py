"""How `moe-patch serve` and `moe-patch live` find each other on one machine, for one user.

<state>/token              the token of servers that were given none, mode 0600
<state>/servers/PID.json   where a running server is, and in which file its token is
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from moe_patch.io.files import write_text
from moe_patch.io.state import check_private, create_private, private_folder, state_folder
from moe_patch_serving.api.tokens import TOKEN, TOKEN_FILE

LOCAL = "local"
"""The name of the token in the state folder."""

_CLOCK = 2.0  # seconds by which two processes may differ about when a third one started
_ANY_ADDRESS = {"", "0.0.0.0", "::"}


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server of this user on this machine that takes live changes."""

    url: str
    process: int
    started: float  # seconds since 1970, by which another process with this number is told apart
    token_file: str | None  # None if its token is in its environment only


def local_token() -> Path:
    """The file with this user's token, which is made at the first call.

    Raises:
        ConfigError: there is no place for it, or others can read it.
        OutputError: it cannot be written.
    """
    path = state_folder() / "token"
    create_private(path, f"{LOCAL} {secrets.token_hex(32)}\n")
    check_private(path)
    return path


def announce(url: str, environment: Mapping[str, str] = os.environ) -> None:
    """Let this user's `moe-patch live` find this process, a server, until it ends.

    Raises:
        ConfigError: there is no place for its record.
        OutputError: the record cannot be written.
    """
    file = None if TOKEN in environment else environment.get(TOKEN_FILE)
    server = LocalServer(url, os.getpid(), psutil.Process().create_time(), file)
    path = private_folder(state_folder() / "servers") / f"{server.process}.json"
    write_text(path, json.dumps(asdict(server)) + "\n")
    atexit.register(path.unlink, missing_ok=True)


def local_servers() -> list[LocalServer]:
    """This user's servers that run now. Records of others are removed.

    Raises:
        ConfigError: there is no place for records.
    """
    return sorted(_running(state_folder() / "servers"), key=lambda server: server.started)


def local_url(host: str | None, port: int, *, encrypted: bool) -> str:
    """The address of a server for clients on its own machine."""
    name = "127.0.0.1" if (host or "") in _ANY_ADDRESS else str(host)
    name = f"[{name}]" if ":" in name else name
    return f"{'https' if encrypted else 'http'}://{name}:{port}"


def _running(folder: Path) -> Iterator[LocalServer]:
    for path in folder.glob("*.json"):
        try:
            server = LocalServer(**json.loads(path.read_text(encoding="utf-8")))
            alive = abs(psutil.Process(server.process).create_time() - server.started) < _CLOCK
        except psutil.AccessDenied:  # it belongs to another user by now
            alive = False
        except (OSError, ValueError, TypeError, psutil.NoSuchProcess):
            alive = False
        if alive:
            yield server
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def address_of(arguments: Any) -> str | None:
    """The address of a server that was started with vLLM's arguments; None if it has no port."""
    port = getattr(arguments, "port", None)
    if port is None or getattr(arguments, "uds", None):
        return None
    return local_url(
        getattr(arguments, "host", None), port, encrypted=bool(getattr(arguments, "ssl_certfile", None))
    )
