"""The server's own copies of the patches that it was given, which nobody else can change.

    <cache>/served/<random>/sha256-<content hash>.safetensors

A client's file is read once. What was checked is written here, and workers get this path, never the
client's: rewriting, truncating or deleting the client's file then has no effect. A folder belongs to one
server, as long as that server holds the lock in it. Folders of killed servers are removed by the next one.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

from moe_patch.errors import OutputError
from moe_patch.io.cache import cache_folder
from moe_patch.patch import Patch, save

logger = logging.getLogger(__name__)

_LOCK = "server.lock"


class PatchStore:
    """A private folder of patches, each in a file named by its content hash."""

    def __init__(self, parent: Path | None = None) -> None:
        """Make a folder that only this user can read, and remove those of servers that are gone.

        Args:
            parent: where to make it; in the cache by default.

        Raises:
            OutputError: the folder cannot be made.
        """
        parent = parent or cache_folder() / "served"
        try:
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(parent / ".lock"):  # so that no folder is seen before its server has locked it
                _remove_abandoned(parent)
                self.folder = Path(mkdtemp(dir=parent))
                self._alive = FileLock(self.folder / _LOCK)
                self._alive.acquire()
        except OSError as error:
            raise OutputError(f"cannot make a folder for patches in {parent}: {error.strerror}") from error

    def put(self, patch: Patch) -> Path:
        """Store a patch, and return the path from which workers read it.

        Raises:
            OutputError: the system refuses to write.
        """
        path = self.path(patch.hash)
        if not path.exists():
            save(patch, path)
        return path

    def path(self, digest: str) -> Path:
        """Where the patch with the content hash `digest`, "sha256:...", is or would be."""
        return self.folder / f"{digest.replace(':', '-')}.safetensors"

    def discard(self, digest: str) -> None:
        """Remove a patch, if it is stored."""
        self.path(digest).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder with all patches."""
        self._alive.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.iterdir():
        lock = FileLock(folder / _LOCK)
        if not folder.is_dir():
            continue
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            logger.warning("removed the patches of a server that did not end by itself: %s", folder)
            shutil.rmtree(folder, ignore_errors=True)
