"""The records of a file as raw JSON texts: one to a line, or all of them in one JSON array.

The published data sets come in both forms. An array is read in pieces and split where its elements end, so
that a file takes no more memory than its longest record. What is inside a record is not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from moe_patch.errors import FactError
from moe_patch.io.reading import opened_file

MAX_FILE = 1 << 30
"""The greatest size of a file in bytes. COUNTERFACT has 45 million."""

MAX_RECORD = 1 << 24
"""The greatest size of one record in bytes. The published ones have a few thousand."""

_PIECE = 1 << 18  # bytes of an array that are read at once
_BOM = b"\xef\xbb\xbf"

# A whole string, a quote that opens a string whose end is not read yet, or a mark of the structure.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_DEEPER = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The raw records of a file, each with the number of the line that it starts on, from 1.

    A file whose first character is `[` is one JSON array. Any other has a record to a line, and blank lines
    are ignored. A byte order mark at the start is removed.

    Raises:
        FactError: the file cannot be read or is longer than `MAX_FILE`, a record is longer than `MAX_RECORD`,
            or an array has no end or something behind it.
    """
    try:
        with opened_file(path) as (raw, size), BufferedReader(raw) as file:
            if size > MAX_FILE:
                raise FactError(f"{path}: expected at most {MAX_FILE >> 30} GiB of facts: split the file")
            is_array = _first_character(file) == b"["
            file.seek(len(_BOM) if file.read(len(_BOM)) == _BOM else 0)
            yield from _elements(file, path) if is_array else _lines(file, path)
    except OSError as error:
        raise FactError(f"{path}: cannot be read: {error.strerror}") from error


def _first_character(file: BinaryIO) -> bytes:
    """The first byte that is neither white space nor a byte order mark; the file is wound back."""
    found = b""
    while not found and (piece := file.read(_PIECE)):
        found = piece.removeprefix(_BOM).lstrip()[:1]
    file.seek(0)
    return found


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_RECORD + 1):
        number += 1
        _check_length(len(line), path, number)
        if line.strip():
            yield number, line


def _elements(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """The elements of the array that the file is. `buffer` starts with the element that is being read."""
    buffer, scanned, depth, line, empty = b"", 0, 0, 1, True
    while piece := file.read(_PIECE):
        buffer += piece
        start = 0
        for mark in _MARK.finditer(buffer, scanned):
            if mark[0] == b'"':  # the string ends in a piece to come
                break
            scanned, outer = mark.end(), depth
            depth += _DEEPER.get(mark[0], 0)
            if outer == 0 or depth == 0 or (depth == 1 and mark[0] == b","):
                raw = buffer[start : mark.start()]
                if outer and not (empty and depth == 0 and not raw.strip()):  # `[]` has no element
                    yield line + _newlines_before(raw), raw
                    empty = False
                line += buffer.count(b"\n", start, scanned)
                start = scanned
            if depth == 0:
                _expect_end(buffer[scanned:], file, path, line)
                return
        buffer, scanned = buffer[start:], scanned - start
        _check_length(len(buffer), path, line)
    line += _newlines_before(buffer)
    raise FactError(f"{path}:{line}: the array has no end: expected a ]; is the file complete?")


def _expect_end(rest: bytes, file: BinaryIO, path: Path, line: int) -> None:
    for piece in chain([rest], iter(lambda: file.read(_PIECE), b"")):
        line += _newlines_before(piece)
        if found := piece.strip()[:20]:
            raise FactError(f"{path}:{line}: expected nothing behind the array, found {found!r}")


def _newlines_before(raw: bytes) -> int:
    """How many lines end before the first character that is not white space."""
    return raw.count(b"\n", 0, len(raw) - len(raw.lstrip()))


def _check_length(length: int, path: Path, line: int) -> None:
    if length > MAX_RECORD:
        raise FactError(
            f"{path}:{line}: expected a record of at most {MAX_RECORD >> 20} MiB, but it goes on behind that"
        )
