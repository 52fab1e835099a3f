"""Putting a file into another folder without copying its bytes, if the file system supports that."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from moe_patch.errors import ConfigError, OutputError
from moe_patch.io.temporary import remove_abandoned, temporary_beside

Link = Literal["auto", "hard", "copy"]
How = Literal["reflink", "hard", "copy"]

_BEFORE_COPYING: dict[Link, tuple[How, ...]] = {
    "auto": ("reflink", "hard"),
    "hard": ("hard",),
    "copy": ("reflink",),
}

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


def choose_link(source: Path, folder: Path, link: Link) -> How:
    """How to put files like `source` into `folder`, found by trying it with that file.

    "auto" prefers a reflink, which shares disk space only, then a hard link, then a copy. "hard" allows hard
    links only. "copy" gives files that change independently, so it uses a reflink too if possible.

    Raises:
        ConfigError: `link` is unknown.
        OutputError: `link` is "hard", and the file system refuses hard links.
    """
    if link not in get_args(Link):
        raise ConfigError(f"link {link!r} is unknown; choose from {', '.join(get_args(Link))}")
    remove_abandoned(folder)
    trial = temporary_beside(folder / "link")
    for how in _BEFORE_COPYING[link]:
        try:
            place_file(source, trial, how)
        except OSError as error:
            refusal = error
            continue
        finally:
            with suppress(OSError):  # on a disk that is only read, nothing is there
                trial.unlink()
        return how
    if link == "hard":
        reason = refusal.strerror
        raise OutputError(f"{source} cannot be linked into {folder} ({reason}): choose --link auto or copy")
    return "copy"


def place_file(source: Path, target: Path, how: How) -> None:
    """Make `target` a file with the content of `source`.

    Raises:
        OSError: the file system does not support this way.
    """
    source = source.resolve()  # the Hub's cache holds links to the actual files
    if how == "hard":
        os.link(source, target)
    elif how == "reflink":
        _reflink(source, target)
    else:
        shutil.copyfile(source, target)


def _reflink(source: Path, target: Path) -> None:
    if sys.platform != "linux":
        raise OSError(f"reflinks are made on Linux only, not on {sys.platform}")
    import fcntl  # noqa: PLC0415  not on every platform

    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
