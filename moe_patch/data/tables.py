"""Tables of facts: CSV and TSV, as spreadsheets write them, with a line of names first."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from moe_patch.data.columns import Column, known_columns, read_header, row_record
from moe_patch.data.lines import decoded, opened_lines
from moe_patch.data.records import MAX_RECORD
from moe_patch.errors import FactError

DELIMITERS = (",", ";", "\t", "|")

MOST_COLUMNS = 1000


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, JsonValue] | FactError]]:
    """The rows as records with native names, or what is wrong with them, each with its line's number from 1.

    The first line has the names of the columns, and decides what is between cells: whichever of `DELIMITERS`
    gives most names that are known. A line "sep=;" before it, which Excel understands, is heard. Rows without
    any text are ignored.

    Raises:
        FactError: the file cannot be read as text, its first line has no names of columns or unknown ones, or
            quotes are where no table has them.
    """
    with opened_lines(path) as raw:
        source = _Source(path, raw)
        columns, delimiter = _header(source)
        rows = csv.reader(source, delimiter=delimiter, strict=True)
        while True:
            start = source.start_record()
            try:
                cells = next(rows, None)
            except csv.Error as error:
                raise FactError(f"{path}:{start}: not a row of a table: {error}") from error
            if cells is None:
                return
            if any(map(str.strip, cells)):
                yield start, _record(columns, cells)


def header_delimiter(line: str) -> str | None:
    """What is between the names of a header; None if a line is no header of a table of facts."""
    counted = {delimiter: known_columns(_cells(line, delimiter)) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: counted[delimiter])
    return best if counted[best] else None


def _record(columns: list[Column], cells: list[str]) -> dict[str, JsonValue] | FactError:
    try:
        return row_record(columns, cells)
    except FactError as error:
        return error


class _Source:
    """Lines as the reader of rows asks for them, which is as many as a row with line breaks in quotes has."""

    def __init__(self, path: Path, lines: Iterator[bytes]) -> None:
        self._path = path
        self._lines = lines
        self._number = 0
        self._length = 0  # bytes of the row that is being read

    def start_record(self) -> int:
        """The number of the line on which the next row starts."""
        self._length = 0
        return self._number + 1

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> str:
        raw = next(self._lines)
        self._number += 1
        self._length += len(raw)
        if self._length > MAX_RECORD:
            self.refuse(f"expected a row of at most {MAX_RECORD >> 20} MiB: is a quote not closed?")
        try:
            return decoded(raw)
        except FactError as error:
            self.refuse(str(error))
            raise

    def refuse(self, problem: str) -> None:
        """Raise an error for the line that was read last."""
        raise FactError(f"{self._path}:{self._number}: {problem}")


def _header(source: _Source) -> tuple[list[Column], str]:
    line = _first_line(source)
    delimiter = None
    if line.lower().startswith("sep=") and len(line.strip()) == 5:
        delimiter = line[4]
        line = _first_line(source)
    delimiter = delimiter or header_delimiter(line)
    if delimiter is None:
        source.refuse(
            f"expected names of columns, such as prompt, subject and target, found {line.strip()[:60]!r}"
        )
    assert delimiter is not None
    names = _cells(line, delimiter)
    if len(names) > MOST_COLUMNS:
        source.refuse(f"expected at most {MOST_COLUMNS} columns, found {len(names)}")
    try:
        return read_header(names), delimiter
    except FactError as error:
        source.refuse(str(error))
        raise


def _first_line(source: _Source) -> str:
    line = ""
    while not line.strip():
        try:
            line = next(source)
        except StopIteration:
            source.refuse("expected names of columns, found an empty file")
    return line


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
