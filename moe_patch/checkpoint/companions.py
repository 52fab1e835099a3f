"""The files of a checkpoint folder besides its weights, and what files hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from moe_patch.checkpoint.record import RECORD
from moe_patch.errors import ModelError

if TYPE_CHECKING:
    from moe_patch.checkpoint.names import AnySlot

_WEIGHTS = {".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"}


def companions(folder: Path) -> Iterator[str]:
    """What travels with the weights: config, tokenizer, model card, code; hidden files stay behind.

    So do weights in other formats: they would still hold the earlier facts.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        weights = path.suffix in _WEIGHTS or name.name.endswith(".bin.index.json")
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not weights and not hidden and str(name) != RECORD:
            yield name.as_posix()


def kept_originals(folder: Path) -> Iterator[str]:
    """Files in which merges into this folder have kept what they replaced."""
    for path in sorted((folder / "moe_patch").glob("originals-*.safetensors")):
        yield path.relative_to(folder).as_posix()


def stamps(folder: Path, names: Sequence[str]) -> list[JsonValue]:
    """Name, bytes and time of change of each file: what tells one state of a folder from another."""
    found = [(name, (folder / name).stat()) for name in names]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]


def sha256(path: Path) -> str:
    """The SHA-256 of a file as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_originals(path: Path, folder: Path, slots: Sequence[AnySlot]) -> None:
    """Keep the bytes of these slots in a safetensors file, one after the other, in little memory."""
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
            target.write(read(folder / slot.file, slot.begin, slot.end))


def read(path: Path, begin: int, end: int) -> bytearray:
    """The bytes of a file from `begin` up to and without `end`; ModelError where it is shorter."""
    raw = bytearray(end - begin)
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        if file.readinto(raw) != len(raw):
            raise ModelError(f"{path} ends before byte {end}: it changed while it was read")
    return raw
