"""Names of temporary files, from which the next process can tell that their writer was killed."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_NAME = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]+)-([0-9]+)-[0-9a-f]{8}\.tmp", re.DOTALL)
_SHOWN = 32  # characters of the final name, which may itself be as long as the system allows
_CLOCK = 2  # seconds by which two processes may differ about when a third one started
_OLD = 24 * 3600  # seconds after the last change; then a file from another machine counts as abandoned


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of `path`, hidden, that names this process as its writer."""
    writer = f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"
    return path.with_name(f".{path.name[:_SHOWN]}.{writer}-{secrets.token_hex(4)}.tmp")


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files in `folder` whose writers are gone. What cannot be removed stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _NAME.fullmatch(entry.name)
            if found is not None and _abandoned(Path(entry.path), found[1], int(found[2]), int(found[3])):
                Path(entry.path).unlink(missing_ok=True)


def _abandoned(path: Path, machine: str, pid: int, started: int) -> bool:
    if machine != _machine():  # whose processes cannot be seen from here
        return time.time() - path.lstat().st_mtime > _OLD
    try:
        seconds = abs(float(psutil.Process(pid).create_time()) - started)
        return seconds > _CLOCK  # then the number was used again
    except (psutil.NoSuchProcess, OverflowError):
        return True
    except psutil.AccessDenied:
        return False


def _machine() -> str:
    """Tells machines that share a folder apart, and containers, which have process numbers of their own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


@cache
def _started(pid: int) -> int:
    """When this process started, in seconds; by its number, since a fork is another process."""
    return int(psutil.Process(pid).create_time())
