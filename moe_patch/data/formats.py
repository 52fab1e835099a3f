"""The forms of facts files: JSON, tables and text. All give records, which name the fields of a fact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import JsonValue

from moe_patch.data.lines import opened_lines
from moe_patch.data.records import read_records
from moe_patch.data.sentences import read_sentences
from moe_patch.data.tables import header_delimiter, read_rows
from moe_patch.errors import FactError
from moe_patch.io import strict_json

Entry = tuple[int, dict[str, JsonValue] | FactError]
"""The number of a line, and the record that starts there, or why it is none."""

_MOST_SNIFFED = 1 << 16  # bytes of the first line that are looked at


def read_entries(path: Path) -> Iterator[Entry]:
    """The records of a facts file in their order.

    What starts as JSON is JSON. Of other files the name tells: .csv and .tsv are tables, .txt is text, .json
    and .jsonl are JSON. A file with another name is a table if its first line has names of columns.

    Raises:
        FactError: the file cannot be read, or its form is not known.
    """
    reader = _reader(path, path.suffix.lower())
    yield from reader(path)


def _reader(path: Path, suffix: str) -> Callable[[Path], Iterator[Entry]]:
    start = _first_line(path)
    named = {".csv": read_rows, ".tsv": read_rows, ".txt": read_sentences}.get(suffix, _read_json)
    if (
        not start
        or start.startswith("{")
        or (start.startswith("[") and start[1:].lstrip()[:1] in ("", "{", "]"))
    ):
        return _read_json
    if suffix in (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson") or start.startswith("["):
        return named
    if header_delimiter(start) is not None:
        return read_rows
    raise FactError(f"{path}: cannot tell what it is: name it .jsonl, .json, .csv, .tsv or .txt")


def _first_line(path: Path) -> str:
    """The beginning of the first line with any text, however it is encoded."""
    with opened_lines(path) as lines:
        for line in lines:
            if text := line[:_MOST_SNIFFED].decode(errors="replace").strip():
                return text
    return ""


def _read_json(path: Path) -> Iterator[Entry]:
    for line, raw in read_records(path):
        try:
            yield line, _parse(raw)
        except FactError as error:
            yield line, error


def _parse(raw: bytes) -> dict[str, JsonValue]:
    try:
        record = strict_json.parse_json(raw.decode())
    except UnicodeDecodeError as error:
        raise FactError(f"expected UTF-8, found byte 0x{raw[error.start]:02x} at {error.start}") from error
    except ValueError as error:
        raise FactError(f"expected one JSON object: {error}") from error
    if not isinstance(record, dict):
        raise FactError(f"expected one JSON object, found {strict_json.describe_json(record)}")
    return record
