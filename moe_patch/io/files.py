"""Atomic writing of files: a reader sees the old file or the whole new one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from moe_patch.errors import OutputError
from moe_patch.io.temporary import remove_abandoned, temporary_beside


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. After the block, the file there replaces `path` in one step.

    The data and then the folder entry are synced to disk before this returns. So after a crash, `path` is
    the old file or the new one, never a part of it. On any exception, including Ctrl-C, the temporary file is
    removed and `path` stays as it was. What a killed process has left in the folder is removed first.

    Raises:
        OutputError: the operating system refuses to write.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    remove_abandoned(path.parent)
    try:
        mode = _usual_mode(temporary)
        yield temporary
        temporary.chmod(mode)
        sync_to_disk(temporary)
        temporary.replace(path)
        sync_to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        _discard(temporary)
        raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    except BaseException:
        _discard(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with line feeds, atomically.

    Raises:
        OutputError: the operating system refuses to write.
    """
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def refuse_existing(out: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        OutputError: `out` exists and is not an empty folder, its parent folder does not exist, or the system
            does not say.
    """
    try:
        there = out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir())))
        placed = out.absolute().parent.is_dir()
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror or error}") from error
    if there:
        raise OutputError(f"{out} exists already: choose another folder, or remove it first")
    if not placed:
        raise OutputError(f"{out} cannot be made: {out.absolute().parent} is not a folder; create it first")


def sync_to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk. Windows cannot sync folders and does not need to."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _usual_mode(path: Path) -> int:
    """The permissions of an ordinary new file, which libraries do not give to all that they write.

    The process's mask can be read only by changing it, which other threads would notice.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        path.unlink()


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # the caller is about to get the error that matters
        temporary.unlink()
