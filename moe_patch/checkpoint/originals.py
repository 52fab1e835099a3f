"""Files in a checkpoint folder that keep the original bytes of patched experts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moe_patch.checkpoint.shards import read_span
from moe_patch.errors import MalformedHeader, ModelError, PatchError
from moe_patch.io.reading import opened_file, read_exactly
from moe_patch.patch.header import HeaderLimits, TensorInfo, read_header

if TYPE_CHECKING:
    from moe_patch.checkpoint.names import AnySlot

_LIMITS = HeaderLimits(file_bytes=2**50, tensors=2**20)
_PLACE = re.compile(r"[0-9]{1,18}")  # bytes from the start of the shard
_ADVICE = "name the base with --model instead"


def kept_originals(folder: Path) -> Iterator[str]:
    """Names of the files in which earlier merges have kept the bytes that they replaced."""
    for path in sorted((folder / "moe_patch").glob("originals-*.safetensors")):
        yield path.relative_to(folder).as_posix()


def write_originals(path: Path, folder: Path, slots: Sequence[AnySlot]) -> None:
    """Write the bytes of these slots to a safetensors file, one slot at a time to use little memory."""
    header, end = {}, 0
    for slot in slots:
        begin, end = end, end + slot.end - slot.begin
        header[f"{slot.file}@{slot.begin}"] = {
            "dtype": "U8",
            "shape": [end - begin],
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for slot in slots:
            target.write(read_span(folder / slot.file, slot.begin, slot.end))


def restore_originals(shard: Path, name: str, originals: Path) -> None:
    """Put the kept bytes back to their places in `shard`, which is a copy of the file `name`.

    Raises:
        ModelError: the file of originals cannot be read, or a place is none in this shard.
    """
    try:
        with opened_file(originals) as (kept, size), shard.open("r+b") as file:
            header = read_header(kept, size, _LIMITS)
            for begin, piece in _pieces(header.tensors, name, shard.stat().st_size):
                kept.seek(size - header.data_bytes + piece.begin)
                file.seek(begin)
                file.write(read_exactly(kept, piece.nbytes))
    except OSError as error:
        raise ModelError(f"{originals} cannot be read: {error.strerror or error}; {_ADVICE}") from error
    except PatchError as error:
        raise ModelError(f"{originals} is damaged: {error}; {_ADVICE}") from error


def _pieces(kept: Mapping[str, TensorInfo], name: str, size: int) -> list[tuple[int, TensorInfo]]:
    """The pieces of the file `name`, `size` bytes long, each with its place, all checked before any is read.

    Raises:
        MalformedHeader: a piece has no place, overlaps another, or goes beyond the file.
    """
    places = [key.rpartition("@")[2] for key in kept]
    if any(_PLACE.fullmatch(place) is None for place in places):
        raise MalformedHeader("expected tensors that are called NAME@BEGIN")
    own = [
        (int(place), kept[key]) for key, place in zip(kept, places, strict=True) if key == f"{name}@{place}"
    ]
    own.sort(key=lambda placed: placed[0])
    reached = 0
    for begin, piece in own:
        if begin < reached or begin + piece.nbytes > size:
            raise MalformedHeader(f"{name}@{begin}: overlaps another piece, or goes beyond {size} bytes")
        reached = begin + piece.nbytes
    return own
