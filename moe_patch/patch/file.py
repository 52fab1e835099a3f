"""Reading and writing patch files, of format versions 1 and 2 (`docs/format.md`)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor

from moe_patch.errors import HashMismatch, MalformedMetadata, MalformedTensor, PatchError, TruncatedPatch
from moe_patch.io import strict_json
from moe_patch.io.files import replacing_file
from moe_patch.io.reading import opened_file, read_exactly
from moe_patch.patch.check import check_table, check_values
from moe_patch.patch.header import DTYPES, HeaderLimits, TensorInfo, read_header
from moe_patch.patch.patch import Patch, assemble_patch
from moe_patch.patch.schema import METADATA_KEY, content_hash, parse_metadata


def save(patch: Patch, path: str | Path) -> None:
    """Write a patch to `path`, atomically.

    Raises:
        PatchError: `load` would refuse the file. The subclass and the message are those of `load`.
        OutputError: the operating system refuses to write.
    """
    path = Path(path)
    try:
        _save(patch, path)
    except PatchError as error:
        raise type(error)(f"cannot write {path}: {error}") from error


def load(path: str | Path, *, limits: HeaderLimits | None = None) -> Patch:
    """Read a patch onto the CPU and check all of it.

    Every byte is read once, and what was checked is what the patch holds: whatever happens to the file later
    changes nothing. No tensor is allocated before the header and the metadata have been checked against
    `limits`. Whether the patch fits a model is not checked here; `check_base` does that.

    Raises:
        PatchError: the file is not a valid patch. The subclass says what is wrong, the message where.
    """
    try:
        return _load(Path(path), limits or HeaderLimits())
    except PatchError as error:
        raise type(error)(f"{path}: {error}") from error


def _save(patch: Patch, path: Path) -> None:
    tensors = patch.tensors()
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            known = ", ".join(DTYPES)
            raise MalformedTensor(f"{name}: expected a dtype among {known}, found {tensor.dtype}")
    body = patch.body()
    try:
        text = _text(body, content_hash(body, tensors))
    except (TypeError, ValueError) as error:  # a value of no JSON type, or a NaN or infinity
        raise MalformedMetadata(f"the metadata is not strict JSON: {error}") from error
    parse_metadata({METADATA_KEY: text})  # before a file is written, since most mistakes are here
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors refuses shared storage
    with replacing_file(path) as temporary:
        save_file(own, temporary, metadata={METADATA_KEY: text})
        del own
        _load(temporary, HeaderLimits())  # a file that `load` would refuse is of no use


def _load(path: Path, limits: HeaderLimits) -> Patch:
    """Read every byte once, and check what was read: the file may change at any time."""
    try:
        with opened_file(path) as (file, size):
            header = read_header(file, size, limits)
            metadata = parse_metadata(header.metadata)
            check_table(metadata, header.tensors)
            data = read_exactly(file, header.data_bytes)
    except OSError as error:
        raise PatchError(f"cannot be read: {error.strerror or error}") from error
    if len(data) < header.data_bytes:
        raise TruncatedPatch(f"became {header.data_bytes - len(data)} bytes shorter while it was read")
    tensors = {name: _tensor(data, info) for name, info in header.tensors.items()}
    check_values(metadata, tensors)
    patch = assemble_patch(metadata, tensors)
    if _text(patch.body(), metadata.hash) != header.metadata[METADATA_KEY]:
        raise MalformedMetadata("expected canonical JSON: keys sorted, no white space, no needless escapes")
    if patch.hash != metadata.hash:
        raise HashMismatch(f"the content has the hash {patch.hash}, but the file declares {metadata.hash}")
    return patch


def _tensor(data: bytearray, info: TensorInfo) -> Tensor:
    """A view of the bytes that were read: it keeps them in memory, and the file has no part in it."""
    dtype, count = DTYPES[info.dtype], math.prod(info.shape)
    if not count:
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=info.begin).reshape(info.shape)


def _text(body: dict[str, JsonValue], digest: str) -> str:
    return strict_json.canonical_json(body | {"hash": digest})
