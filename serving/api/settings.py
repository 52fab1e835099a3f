"""A server's settings for live changes, from its environment: other users can read arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moe_patch.errors import ConfigError
from moe_patch_serving.api.allowed import Allowed, parse_allowed

TOKEN = "MOE_PATCH_TOKEN"
TOKEN_FILE = "MOE_PATCH_TOKEN_FILE"
ALLOW = "MOE_PATCH_ALLOW"
DRAIN_SECONDS = "MOE_PATCH_DRAIN_SECONDS"
SELF_TEST_SECONDS = "MOE_PATCH_SELF_TEST_SECONDS"
STORE = "MOE_PATCH_STORE"

WORKER = "moe_patch_serving.worker.PatchWorker"
"""The worker extension class that vLLM must mix into its workers."""

SHORTEST_TOKEN = 16
_MOST_READ = 4096  # characters of a token file; a device may have no end


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits of the time for which a change lets clients' requests wait, in seconds."""

    drain: float = 600.0  # for requests that run when the change begins
    self_test: float = 30.0  # for the answers to the self-test


@dataclass(frozen=True, slots=True)
class Settings:
    """The token, the allowed places of patches, how long a change may let requests wait, and a folder.

    `store` is where the server makes the folder for its own copies of patches, or None for the usual place.

    If `token` is None, nobody may change the server.
    """

    token: str | None = field(default=None, repr=False)
    allowed: Allowed = field(default_factory=Allowed)
    patience: Patience = Patience()
    store: Path | None = None


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment.

    MOE_PATCH_TOKEN is the bearer token, or MOE_PATCH_TOKEN_FILE a file with it. MOE_PATCH_ALLOW lists the
    allowed places of patches, one per line. MOE_PATCH_DRAIN_SECONDS is the longest wait for running requests,
    and MOE_PATCH_SELF_TEST_SECONDS that for the answers to a self-test. MOE_PATCH_STORE is the folder in which
    the server keeps its own copies of patches.

    Raises:
        ConfigError: a setting is malformed.
    """
    usual = Patience()
    places = [place for place in environment.get(ALLOW, "").splitlines() if place]
    patience = Patience(
        drain=_seconds(environment, DRAIN_SECONDS, usual.drain),
        self_test=_seconds(environment, SELF_TEST_SECONDS, usual.self_test),
    )
    return Settings(read_token(environment), parse_allowed(places), patience, _folder(environment, STORE))


def read_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The token from the environment or from the file that it names; None if it has neither.

    Raises:
        ConfigError: the file cannot be read, or the token is too short or has other characters.
    """
    token, file = environment.get(TOKEN), environment.get(TOKEN_FILE)
    if token is None and file is not None:
        try:
            with Path(file).open(encoding="utf-8") as stream:
                token = stream.read(_MOST_READ).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{TOKEN_FILE}: {file} cannot be read: {error}") from error
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{TOKEN}: expected at least {SHORTEST_TOKEN} printable ASCII characters without a space"
        )
    return token


def _folder(environment: Mapping[str, str], name: str) -> Path | None:
    value = environment.get(name)
    if value is not None and not Path(value).is_dir():
        raise ConfigError(f"{name}: expected a folder, found {value!r}")
    return None if value is None else Path(value)


def _seconds(environment: Mapping[str, str], name: str, unset: float) -> float:
    value = environment.get(name)
    try:
        seconds = unset if value is None else float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name}: expected a number of seconds above 0, found {value!r}")
    return seconds
