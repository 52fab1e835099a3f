"""The user's state folder: what programs of one user on one machine know of one another.

Unlike the cache, what is here cannot be computed again. Only the user can read it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from moe_patch.errors import ConfigError, OutputError


def state_folder() -> Path:
    """The folder: $MOE_PATCH_STATE if set, else `moe-patch` in $XDG_STATE_HOME or in ~/.local/state.

    Raises:
        ConfigError: neither variable is set, and there is no home folder.
    """
    if chosen := os.environ.get("MOE_PATCH_STATE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "moe-patch"
    except RuntimeError as error:
        raise ConfigError("there is no home folder for state: set MOE_PATCH_STATE to a folder") from error


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can read, if it is not there, and return it.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def create_private(path: Path, text: str) -> bool:
    """Write a file with mode 0600, unless there is one; it is there whole or not at all.

    Returns:
        whether it was written.

    Raises:
        OutputError: the system refuses to write.
    """
    private_folder(path.parent)
    temporary = None
    try:
        handle, temporary = mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
        try:
            os.write(handle, text.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        os.link(temporary, path)  # fails if another process was first
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
    return True


def check_private(path: Path) -> None:
    """Check that nobody else can read or change a file of the state.

    Raises:
        ConfigError: others can, or the file cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: others can read it: run `chmod 600 {path}`, or remove it for a new one")
