"""Taking patch files apart, and putting them together with faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from moe_patch.io import strict_json
from moe_patch.patch import Patch, content_hash, save

Json = dict[str, Any]


def take_apart(path: Path) -> tuple[Json, bytes]:
    """The header of a safetensors file and the bytes after it."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:start]), raw[start:]


def put_together(path: Path, header: Json | str | bytes, data: bytes, *, length: int | None = None) -> Path:
    """A file with this header, valid or not, padded with spaces as safetensors does."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    raw += b" " * (-len(raw) % 8)
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def with_header(path: Path, change: Callable[[Json], object]) -> Path:
    """Change the header of the file in place."""
    header, data = take_apart(path)
    change(header)
    return put_together(path, header, data)


def with_metadata(path: Path, change: Callable[[Json], object]) -> Path:
    """Change the patch metadata in place and store its new hash, so that only the change is wrong."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    header, data = take_apart(path)
    metadata = json.loads(header["__metadata__"]["moe_patch"])
    change(metadata)
    metadata["hash"] = content_hash(metadata, tensors)
    header["__metadata__"]["moe_patch"] = strict_json.canonical_json(metadata)
    return put_together(path, header, data)


def with_metadata_text(path: Path, change: Callable[[str], str]) -> Path:
    """Change the text of the patch metadata in place."""
    header, data = take_apart(path)
    header["__metadata__"]["moe_patch"] = change(header["__metadata__"]["moe_patch"])
    return put_together(path, header, data)


def with_value(path: Path, name: str, change: Callable[[torch.Tensor], object]) -> Path:
    """Change values of one tensor in place and store the new hash, so that only the values are wrong."""
    header, data = take_apart(path)
    begin, end = header[name]["data_offsets"]
    dtype = {"F32": torch.float32, "I32": torch.int32}[header[name]["dtype"]]
    values = torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(header[name]["shape"])
    change(values)
    put_together(path, header, data[:begin] + values.numpy().tobytes() + data[end:])
    return with_metadata(path, lambda metadata: None)


def saved(patch: Patch, folder: Path) -> Path:
    path = folder / "p.safetensors"
    save(patch, path)
    return path
