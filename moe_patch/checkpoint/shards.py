"""Where the tensors of a checkpoint are stored: in which file, at which bytes, in which dtype."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue
from safetensors import SafetensorError, safe_open

from moe_patch.errors import ModelError
from moe_patch.io import strict_json
from moe_patch.io.reading import opened_file, read_text

if TYPE_CHECKING:
    pass

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_MAX_INDEX = 256 * 2**20  # bytes; those of the largest models have 10 MB


@dataclass(frozen=True, slots=True)
class Span:
    """One stored tensor; `begin` and `end` count bytes from the start of the file."""

    name: str
    file: str
    dtype: str  # as safetensors spells it: "BF16", "F8_E4M3", ...
    shape: tuple[int, ...]
    begin: int
    end: int

    def part(self, number: int) -> tuple[int, int]:
        """Begin and end of slice `number` along the first dimension."""
        size = (self.end - self.begin) // self.shape[0]
        return self.begin + number * size, self.begin + (number + 1) * size


def is_sharded(folder: Path) -> bool:
    """Whether the weights are read through an index. A single file comes first, as in transformers."""
    return not (folder / SINGLE).exists()


def weight_files(folder: Path) -> list[str]:
    """The safetensors files that transformers reads from `folder`: one, or those that its index names.

    Raises:
        ModelError: there are none, or the index is invalid or names a file that is missing.
    """
    if not is_sharded(folder):
        return [SINGLE]
    names = sorted(set(_weight_map(folder / INDEX).values()))
    for name in names:
        if Path(name).name != name or not _is_file(folder / name):
            raise ModelError(f"{folder / INDEX} names {name!r}, which is not a file in this folder")
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long, or its folder may not be searched
        return False


def read_spans(folder: Path) -> dict[str, Span]:
    """Every tensor of the checkpoint by its stored name; only the headers are read.

    Raises:
        ModelError: safetensors cannot read a file, or a shard does not hold a tensor that the index expects.
    """
    spans = {span.name: span for name in weight_files(folder) for span in _header(folder, name)}
    if is_sharded(folder):
        for name, file in _weight_map(folder / INDEX).items():
            if name not in spans or spans[name].file != file:
                raise ModelError(f"{folder / INDEX} expects {name} in {file}, which does not hold it")
    return spans


def _weight_map(index: Path) -> dict[str, str]:
    try:
        value = strict_json.parse_json(read_text(index, _MAX_INDEX))
    except FileNotFoundError:
        raise ModelError(f"{index.parent} holds no checkpoint: expected {SINGLE} or {INDEX}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{index} cannot be read: {error}") from error
    found = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{index} has no weight_map")
    return {name: _text(index, file) for name, file in found.items()}


def _text(index: Path, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ModelError(f"{index}: expected file names, found {strict_json.describe_json(value)}")
    return value


def _header(folder: Path, name: str) -> Iterator[Span]:
    """The tensors of one file. The library checks the file, but does not give the place of a tensor."""
    try:
        with opened_file(folder / name) as (file, _), safe_open(folder / name, framework="pt"):
            length = int.from_bytes(file.read(8), "little")
            entries: dict[str, Any] = json.loads(file.read(length))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / name} cannot be read: {error}") from error
    entries.pop("__metadata__", None)
    for tensor, entry in entries.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        yield Span(tensor, name, entry["dtype"], tuple(entry["shape"]), begin, end)


def read_span(path: Path, begin: int, end: int) -> bytearray:
    """The bytes of a file from `begin` to before `end`.

    Raises:
        ModelError: the file is shorter, or cannot be read.
    """
    raw = bytearray(end - begin)
    fill_span(path, begin, memoryview(raw))
    return raw


def fill_span(path: Path, begin: int, raw: memoryview) -> None:
    """Fill `raw` with the bytes of a file from `begin`.

    Raises:
        ModelError: the file is shorter, or cannot be read.
    """
    filled = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while filled < len(raw):  # the system reads at most two gigabytes at a time
                count = file.readinto(raw[filled:])
                if not count:
                    break
                filled += count
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if filled != len(raw):
        raise ModelError(f"{path} ends before byte {begin + len(raw)}: it changed while it was read")
