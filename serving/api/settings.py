"""A server's settings for live changes, from its environment: other users can read arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moe_patch.errors import ConfigError
from moe_patch_serving.api.allowed import Allowed, parse_allowed
from moe_patch_serving.api.tokens import Token, read_tokens

ALLOW = "MOE_PATCH_ALLOW"
DRAIN_SECONDS = "MOE_PATCH_DRAIN_SECONDS"
SELF_TEST_SECONDS = "MOE_PATCH_SELF_TEST_SECONDS"
REQUEST_SECONDS = "MOE_PATCH_REQUEST_SECONDS"
MAX_FALL = "MOE_PATCH_MAX_FALL"
AUDIT_FILE = "MOE_PATCH_AUDIT_FILE"

WORKER = "moe_patch_serving.worker.PatchWorker"
"""The worker extension class that vLLM must mix into its workers."""


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a server waits for others, in seconds."""

    drain: float = 600.0  # for requests that run when a change begins
    self_test: float = 30.0  # for the answers to a self-test
    request: float = 60.0  # for the rest of a request that has begun to arrive


@dataclass(frozen=True, slots=True)
class Settings:
    """The tokens, the allowed places of patches, the limits of changes, and the file of the audit.

    `max_fall` is the most by which a patch may lower the mean log-probability of its controls, in nats a
    token, if the patch does not set a lower bound itself.

    Without tokens, nobody may change the server.
    """

    tokens: tuple[Token, ...] = ()
    allowed: Allowed = field(default_factory=Allowed)
    patience: Patience = Patience()
    max_fall: float = 1.0
    audit_file: Path | None = None


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment.

    MOE_PATCH_TOKEN is the bearer token, or MOE_PATCH_TOKEN_FILE a file with tokens. MOE_PATCH_ALLOW lists the
    allowed places of patches, one per line. MOE_PATCH_DRAIN_SECONDS is the longest wait for running requests,
    MOE_PATCH_SELF_TEST_SECONDS that for the answers to a self-test, and MOE_PATCH_REQUEST_SECONDS that for
    the rest of a request. MOE_PATCH_MAX_FALL is the most by which a patch may lower the likelihood of its
    controls. MOE_PATCH_AUDIT_FILE is the file to which a line is added for each attempt.

    Raises:
        ConfigError: a setting is malformed.
    """
    usual = Settings()
    places = [place for place in environment.get(ALLOW, "").splitlines() if place]
    patience = Patience(
        drain=_positive(environment, DRAIN_SECONDS, usual.patience.drain),
        self_test=_positive(environment, SELF_TEST_SECONDS, usual.patience.self_test),
        request=_positive(environment, REQUEST_SECONDS, usual.patience.request),
    )
    return Settings(
        tokens=read_tokens(environment),
        allowed=parse_allowed(places),
        patience=patience,
        max_fall=_positive(environment, MAX_FALL, usual.max_fall, "nats a token"),
        audit_file=Path(environment[AUDIT_FILE]) if environment.get(AUDIT_FILE) else None,
    )


def _positive(environment: Mapping[str, str], name: str, unset: float, unit: str = "seconds") -> float:
    text = environment.get(name)
    try:
        value = unset if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name}: expected a number of {unit} above 0, found {text!r}")
    return value
