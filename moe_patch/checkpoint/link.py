"""Putting a file into another folder without writing it again, where the file system can."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from moe_patch.errors import ConfigError, OutputError

Link = Literal["auto", "hard", "copy"]
How = Literal["reflink", "hard", "copy"]

_BEFORE_COPYING: dict[Link, tuple[How, ...]] = {
    "auto": ("reflink", "hard"),
    "hard": ("hard",),
    "copy": ("reflink",),
}

Piece = tuple[int, int, Callable[[bytes], bytes]]

_CHUNK = 8 * 2**20  # bytes

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


def choose(source: Path, folder: Path, link: Link) -> How:
    """How files like `source` get into `folder`, found out by trying it with that file.

    "auto" prefers a reflink, which shares the disk space and nothing else, then a hard link, then a copy.
    "hard" insists on hard links: OutputError where there can be none. "copy" shares nothing that a program
    could notice, so it is a reflink too where there can be one.
    """
    if link not in get_args(Link):
        raise ConfigError(f"link {link!r} is unknown; choose from {', '.join(get_args(Link))}")
    trial = folder / f".{secrets.token_hex(8)}.link.tmp"
    for how in _BEFORE_COPYING[link]:
        try:
            place(source, trial, how)
        except OSError as error:
            refusal = error
            continue
        finally:
            trial.unlink(missing_ok=True)
        return how
    if link == "hard":
        reason = refusal.strerror
        raise OutputError(f"{source} cannot be linked into {folder} ({reason}): choose --link auto or copy")
    return "copy"


def place(source: Path, target: Path, how: How) -> None:
    """Make `target` a file with the content of `source`; OSError where the file system cannot do it so."""
    source = source.resolve()  # the Hub's cache holds links to the files proper
    if how == "hard":
        os.link(source, target)
    elif how == "reflink":
        _reflink(source, target)
    else:
        shutil.copyfile(source, target)


def write_changed(source: Path, target: Path, pieces: Iterable[Piece], how: How) -> None:
    """Make `target` a copy of `source` but for `pieces`, which come in order and do not overlap.

    A piece is begin, end, and a function from the bytes that were there to as many others. With a reflink
    nothing but the pieces is written.
    """
    if how == "reflink":
        _reflink(source.resolve(), target)
    buffer = memoryview(bytearray(_CHUNK))
    with source.open("rb") as old, target.open("r+b" if how == "reflink" else "wb") as new:
        for begin, end, change in pieces:
            if how == "reflink":
                old.seek(begin)
                new.seek(begin)
            _copy(old, new, begin - old.tell(), buffer)
            new.write(change(old.read(end - begin)))
        if how != "reflink":
            _copy(old, new, os.fstat(old.fileno()).st_size - old.tell(), buffer)


def _copy(old: BinaryIO, new: BinaryIO, count: int, buffer: memoryview) -> None:
    while count:
        part = buffer[: min(count, len(buffer))]
        if old.readinto(part) != len(part):  # type: ignore[attr-defined]
            raise OSError(f"{old.name} became shorter while it was copied")
        new.write(part)
        count -= len(part)


def _reflink(source: Path, target: Path) -> None:
    if sys.platform != "linux":
        raise OSError(f"reflinks are made on Linux only, not on {sys.platform}")
    import fcntl  # noqa: PLC0415  not on every platform

    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
