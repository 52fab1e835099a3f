"""The texts of a file: lines, JSON lines, or a column of a parquet file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moe_patch.data.text import composed
from moe_patch.errors import ConfigError, StatisticsError
from moe_patch.io.reading import read_file

SUFFIXES = frozenset({".txt", ".jsonl", ".parquet"})
"""Of the files that are taken from a folder."""

COLUMN = "text"
"""The field or column that holds a text."""

INSTALL = "pip install 'moe-patch[datasets]'"

_MAX_BYTES = 4 * 2**30  # all texts of a file are in memory at once


def file_texts(path: Path) -> Iterator[str]:
    """The texts of a file in their order, in Unicode's form C and without white space around them.

    In a .jsonl file, each line is a JSON object whose "text" is taken; other fields are ignored. In a
    .parquet file, it is the column "text", or the only column of strings. In any other file, which must be
    in UTF-8, each line is a text. Empty lines and empty texts are skipped.

    Raises:
        ConfigError: the package for parquet files is missing.
        StatisticsError: the file cannot be read or contains no text, or a line is not UTF-8, not JSON, or has
            no text. The message names the file and the line.
    """
    found = False
    for text in _parquet_texts(path) if path.suffix.lower() == ".parquet" else _line_texts(path):
        if text:
            found = True
            yield text
    if not found:
        raise StatisticsError(f"the corpus {path} contains no text: give one text per line")


def _line_texts(path: Path) -> Iterator[str]:
    try:
        lines = read_file(path, _MAX_BYTES).splitlines()
    except OSError as error:
        raise StatisticsError(f"cannot read the corpus {path}: {error.strerror}") from error
    parse: Callable[[str], str] = _json_text if path.suffix.lower() == ".jsonl" else str.strip
    for number, line in enumerate(lines, start=1):
        try:
            content = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            yield composed(parse(content)) if content else ""
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or no "text"
            raise StatisticsError(f"{path}:{number}: {error}") from error


def _parquet_texts(path: Path) -> Iterator[str]:
    try:
        import pyarrow  # noqa: PLC0415 (an extra)
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"{path}: parquet files need the package pyarrow: {INSTALL}") from error
    try:
        with parquet.ParquetFile(path) as file:
            column = text_column(str(path), _string_columns(pyarrow, file.schema_arrow))
            for batch in file.iter_batches(columns=[column]):
                yield from (composed(text).strip() for text in batch.column(0).to_pylist() if text)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise StatisticsError(f"cannot read the corpus {path}: {' '.join(str(error).split())}") from error


def text_column(place: str, columns: list[str], wanted: str | None = None) -> str:
    """The column to take: the wanted one, else "text", else the only one.

    Args:
        place: for errors, where the columns are.
        columns: the names of those with strings.
        wanted: a name that was asked for.

    Raises:
        StatisticsError: there is no such column.
    """
    name = wanted or (columns[0] if len(columns) == 1 else COLUMN)
    if name in columns:
        return name
    listed = ", ".join(columns) or "none"
    raise StatisticsError(
        f"the corpus {place} has no column {name!r} of text: its columns of text are {listed}"
    )


def _string_columns(pyarrow: Any, schema: Any) -> list[str]:
    kinds = (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view())
    return [field.name for field in schema if field.type in kinds]


def _json_text(line: str) -> str:
    record = json.loads(line)
    text = record.get(COLUMN) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError('expected a JSON object with a string "text"')
    return text.strip()
