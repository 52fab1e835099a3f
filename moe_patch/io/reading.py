"""Reading of files that strangers may have written: ordinary files only, and never more than a limit."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path


@contextmanager
def opened_file(path: Path) -> Iterator[tuple[FileIO, int]]:
    """Open an ordinary file, and yield it, unbuffered, with its size in bytes.

    The kind and the size are those of what was opened, not of what the path names at another moment.

    Raises:
        OSError: the file cannot be opened, or it is a folder, a pipe or a device.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name has a null character")
    with open(path, "rb", buffering=0, opener=_open_ordinary) as file:
        yield file, os.fstat(file.fileno()).st_size


def read_file(path: Path, limit: int) -> bytes:
    """The content of an ordinary file of at most `limit` bytes.

    Raises:
        OSError: the file is longer, cannot be read, or is no ordinary file. `strerror` says which.
    """
    with opened_file(path) as (file, size):
        raw = read_exactly(file, min(size, limit) + 1)  # one more, since the file may have grown
        if len(raw) > limit:
            raise OSError(errno.EFBIG, f"it is longer than {limit} bytes, the limit")
        return bytes(raw)


def read_text(path: Path, limit: int) -> str:
    """As `read_file`, decoded from UTF-8.

    Raises:
        OSError: as for `read_file`.
        UnicodeDecodeError: the content is not UTF-8.
    """
    return read_file(path, limit).decode()


def file_sha256(path: Path) -> str:
    """The SHA-256 of an ordinary file in hexadecimal, as sha256sum prints it.

    Raises:
        OSError: as for `opened_file`, or the file cannot be read.
    """
    with opened_file(path) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_exactly(file: FileIO, count: int) -> bytearray:
    """The next `count` bytes, or all that are left if these are fewer."""
    raw = bytearray(count)
    view, done = memoryview(raw), 0
    while done < count and (got := file.readinto(view[done:])):
        done += got
    view.release()
    del raw[done:]
    return raw


def _open_ordinary(path: str, flags: int) -> int:
    # without O_NONBLOCK, opening a pipe that nobody writes to would block forever
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    return handle
