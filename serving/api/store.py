"""A server's own copies of the patches that it has on: whatever happens to a user's file, they stay.

Workers read patches by path, when they are added and when a change is undone. A path of a user's may hold
something else by then, or nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Container
from pathlib import Path

from moe_patch.errors import ConfigError
from moe_patch.patch import Patch, save

logger = logging.getLogger("vllm.moe_patch")

_PREFIX = "moe-patch-server-"


class PatchStore:
    """A private folder of patch files named by their content, which is removed with the server.

    The folder is locked while the server lives. What a killed server left is removed by the next one.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Make the folder in `parent`, or where this system keeps temporary files.

        Raises:
            ConfigError: the operating system refuses to make it.
        """
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        try:
            _remove_abandoned(parent)
            self._folder, self._lock = _locked_folder(parent)
        except OSError as error:
            raise ConfigError(f"no place for this server's copies of patches in {parent}: {error}") from error

    def put(self, patch: Patch) -> Path:
        """Keep a patch, and return the path of its copy.

        Raises:
            MoePatchError: the copy cannot be written.
        """
        path = self._folder / f"{patch.hash.removeprefix('sha256:')}.safetensors"
        if not path.exists():
            save(patch, path)
        return path

    def keep(self, hashes: Container[str]) -> None:
        """Remove all patches but those of these hashes."""
        for path in self._folder.glob("*.safetensors"):
            if f"sha256:{path.stem}" not in hashes:
                path.unlink()

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder, which has its name only when it is locked, and the handle that holds the lock."""
    folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    unnamed = folder.with_name(f".{folder.name}")
    unnamed.mkdir(mode=0o700)
    lock = os.open(unnamed, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(folder)
    return folder, lock


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user's servers that are gone. Others may make folders of that name too."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # it is gone, or belongs to somebody else
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                logger.warning("removed %s, which a server left that was killed", folder)
        except BlockingIOError:  # its server lives
            continue
        finally:
            os.close(lock)
