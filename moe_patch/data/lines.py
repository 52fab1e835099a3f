"""The lines of a text file that strangers may have written, one at a time and within limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from moe_patch.data.records import MAX_FILE, MAX_RECORD
from moe_patch.errors import FactError
from moe_patch.io.reading import opened_file

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def opened_lines(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a file with their ends, without a byte order mark.

    Raises:
        FactError: the file cannot be read, is too long or in UTF-16, or a line is longer than `MAX_RECORD`.
    """
    try:
        with opened_file(path) as (raw, size), BufferedReader(raw) as file:
            if size > MAX_FILE:
                raise FactError(f"{path}: expected at most {MAX_FILE >> 30} GiB of facts: split the file")
            yield _lines(file, path)
    except OSError as error:
        raise FactError(f"{path}: cannot be read: {error.strerror}") from error


def decoded(raw: bytes) -> str:
    """A line as text.

    Raises:
        FactError: it is not UTF-8, or has a null character.
    """
    if b"\0" in raw:
        raise FactError(f"expected text, found a null character at {raw.index(0)}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        found = f"found byte 0x{raw[error.start]:02x} at {error.start}"
        raise FactError(f"expected UTF-8, {found}: save it as UTF-8") from error


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_RECORD + 1):
        number += 1
        if number == 1:
            if line.startswith(_UTF16):
                raise FactError(
                    f"{path}:1: expected UTF-8, found UTF-16: save it as UTF-8 (in Excel: CSV UTF-8)"
                )
            line = line.removeprefix(_BOM)
        if len(line) > MAX_RECORD:
            raise FactError(f"{path}:{number}: expected a line of at most {MAX_RECORD >> 20} MiB")
        yield line
