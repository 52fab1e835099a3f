"""Files in a checkpoint folder that keep the original bytes of patched experts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moe_patch.checkpoint.shards import read_span

if TYPE_CHECKING:
    from moe_patch.checkpoint.names import AnySlot


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
