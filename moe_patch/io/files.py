"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moe_patch.errors import OutputError


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on leaving, that file takes `path`'s place in one step.

    The data and then the folder entry reach the disk before this returns, so after a crash `path` holds the
    old file or the new one, never a part. On any exception, Ctrl-C included, the file beside is removed and
    `path` is left alone. Raises OutputError where the system refuses to write.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync_to_disk(temporary)
        temporary.replace(path)
        sync_to_disk(path.parent)
    except OSError as error:
        _discard(temporary)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        _discard(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with line feeds, whole or not at all; OutputError where the system refuses."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def sync_to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk; Windows cannot open a folder, nor needs to."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # the reason for discarding it is already on its way to the caller
        temporary.unlink()
