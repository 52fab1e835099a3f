"""The audit: one line of JSON for each attempt to change a server, whatever became of it.

It goes into the server's log and, if MOE_PATCH_AUDIT_FILE is set, to the end of that file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from moe_patch.errors import ConfigError
from moe_patch_serving.errors import LiveError

logger = logging.getLogger("vllm.moe_patch")


@dataclass(slots=True)
class Attempt:
    """An attempt to change a server."""

    operation: str
    by: str  # the name of the token; "" if there was no good one
    client: str  # its address
    patch: str = ""  # its name, or what the client called it
    hash: str = ""


_present: ContextVar[Attempt | None] = ContextVar("the present attempt", default=None)


def note(*, patch: str | None = None, hash: str | None = None) -> None:  # noqa: A002  as in the line
    """Say which patch the present attempt is about. Outside of one, nothing is noted."""
    attempt = _present.get()
    if attempt is not None:
        attempt.patch = attempt.patch if patch is None else patch
        attempt.hash = attempt.hash if hash is None else hash


class Audit:
    """Writes the lines."""

    def __init__(self, file: Path | None = None) -> None:
        """Check that the file can be written.

        Raises:
            ConfigError: it cannot.
        """
        self._file = file
        try:
            self._append("")
        except OSError as error:
            raise ConfigError(f"MOE_PATCH_AUDIT_FILE: {file} cannot be written: {error.strerror}") from error

    @contextmanager
    def attempt(self, operation: str, by: str, client: str) -> Iterator[None]:
        """Write the line of what is attempted in the block; `note` adds the patch."""
        attempt, started = Attempt(operation, by, client), perf_counter()
        token = _present.set(attempt)
        result, reason = "failed", ""
        try:
            yield
            result = "done"
        except LiveError as error:
            result, reason = error.code, str(error)
            raise
        except BaseException as error:
            reason = type(error).__name__
            raise
        finally:
            _present.reset(token)
            self._write(attempt, result, reason, perf_counter() - started)

    def _write(self, attempt: Attempt, result: str, reason: str, seconds: float) -> None:
        outcome = {"result": result, "reason": reason, "seconds": round(seconds, 4)}
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **asdict(attempt), **outcome}
        text = json.dumps(line)
        logger.info("audit: %s", text)
        try:
            self._append(f"{text}\n")
        except OSError as error:  # the change is made or not by now
            logger.error("the audit could not be written to %s: %s", self._file, error)

    def _append(self, text: str) -> None:
        """Add text in one step, so that lines of several servers do not mix."""
        if self._file is not None:
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)
