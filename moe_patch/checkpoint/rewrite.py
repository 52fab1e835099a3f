"""Copying a file with new bytes in some places, about as fast as a plain copy that is flushed to disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from moe_patch.checkpoint.link import How, place_file

Piece = tuple[int, memoryview]
"""The place in the file, in bytes from its start, and the new bytes."""

_CHUNK = 8 * 2**20  # bytes
_FLUSH = 128 * 2**20  # bytes after which a flush is started
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}


def write_changed(source: Path, target: Path, pieces: Iterable[Piece], how: How) -> None:
    """Make `target` a copy of `source` except for `pieces`, which are in order and do not overlap.

    With a reflink only the pieces are written.

    Raises:
        OSError: the system refuses to read, write or reflink.
    """
    cloned = how == "reflink"
    if cloned:
        place_file(source, target, how)
    with (
        FileIO(source) as old,
        FileIO(target, "r+" if cloned else "w") as new,
        ThreadPoolExecutor(max_workers=1) as flusher,
    ):
        output, reached = _Output(old, new, flusher), 0
        for begin, raw in pieces:
            if not cloned:
                output.copy(reached, begin)
            output.put(begin, raw)
            reached = begin + len(raw)
        if not cloned:
            output.copy(reached, os.fstat(old.fileno()).st_size)
        output.finish()


class _Output:
    """A file that is flushed to disk while it is written, so that only the last flush is waited for."""

    def __init__(self, old: FileIO, new: FileIO, flusher: ThreadPoolExecutor) -> None:
        self._old, self._new, self._flusher = old, new, flusher
        self._dirty = 0
        self._flushing: Future[None] | None = None
        self._buffer: bytearray | None = None if hasattr(os, "copy_file_range") else bytearray(_CHUNK)

    def put(self, begin: int, raw: memoryview) -> None:
        self._new.seek(begin)
        left = raw
        while left:
            left = left[self._new.write(left) or 0 :]
        self._wrote(len(raw))

    def copy(self, begin: int, end: int) -> None:
        """Copy bytes of the old file from `begin` to `end` to the same place."""
        while begin < end:
            count = self._copy(begin, min(end - begin, _CHUNK))
            if not count:
                raise OSError(f"{self._old.name!s} became shorter while it was copied")
            begin += count
            self._wrote(count)

    def finish(self) -> None:
        """Wait until everything is on disk."""
        if self._flushing is not None:
            self._flushing.result()
        os.fsync(self._new.fileno())

    def _copy(self, begin: int, count: int) -> int:
        """Copy some of `count` bytes, within the kernel where it can; returns how many."""
        if self._buffer is None:
            try:
                return os.copy_file_range(self._old.fileno(), self._new.fileno(), count, begin, begin)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                self._buffer = bytearray(_CHUNK)
        self._old.seek(begin)
        part = memoryview(self._buffer)[: self._old.readinto(memoryview(self._buffer)[:count])]
        self._new.seek(begin)
        return self._new.write(part) or 0

    def _wrote(self, count: int) -> None:
        self._dirty += count
        if self._dirty < _FLUSH or (self._flushing is not None and not self._flushing.done()):
            return
        if self._flushing is not None:
            self._flushing.result()  # raises if the flush failed
        self._dirty, self._flushing = 0, self._flusher.submit(os.fsync, self._new.fileno())
