"""Reading and writing patch files, of format versions 1 and 2 (`docs/format.md`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moe_patch.errors import HashMismatch, MalformedMetadata, MalformedTensor, PatchError
from moe_patch.io import strict_json
from moe_patch.io.files import replacing_file
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

    No tensor is allocated before the header and the metadata have been checked against `limits`. Whether the
    patch fits a model is not checked here; `check_base` does that.

    Raises:
        PatchError: the file is not a valid patch. The subclass says what is wrong, the message where.
    """
    try:
        return _load(Path(path), limits or HeaderLimits())
    except PatchError as error:
        raise type(error)(f"{path}: {error}") from error


def _save(patch: Patch, path: Path) -> None:
    tensors = patch.tensors()
    table = {name: _info(name, tensor) for name, tensor in tensors.items()}
    body = patch.body()
    try:
        digest = content_hash(body, tensors)
    except (TypeError, ValueError) as error:  # a value of no JSON type, or a NaN or infinity
        raise MalformedMetadata(f"the metadata is not strict JSON: {error}") from error
    text = _text(body, digest)
    metadata = parse_metadata({METADATA_KEY: text})
    check_table(metadata, table)
    check_values(metadata, tensors)
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors refuses shared storage
    with replacing_file(path) as temporary:
        save_file(own, temporary, metadata={METADATA_KEY: text})
        read_header(temporary, HeaderLimits())  # a file that `load` would refuse is of no use


def _load(path: Path, limits: HeaderLimits) -> Patch:
    header = read_header(path, limits)
    metadata = parse_metadata(header.metadata)
    check_table(metadata, header.tensors)
    tensors = _read_tensors(path, header.tensors)
    check_values(metadata, tensors)
    patch = assemble_patch(metadata, tensors)
    if _text(patch.body(), metadata.hash) != header.metadata[METADATA_KEY]:
        raise MalformedMetadata("expected canonical JSON: keys sorted, no white space, no needless escapes")
    if patch.hash != metadata.hash:
        raise HashMismatch(f"the content has the hash {patch.hash}, but the file declares {metadata.hash}")
    return patch


def _read_tensors(path: Path, table: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in table}
    except (OSError, SafetensorError) as error:
        raise PatchError(f"safetensors cannot read it: {error}") from error


def _info(name: str, tensor: Tensor) -> TensorInfo:
    for dtype, known in DTYPES.items():
        if tensor.dtype == known:
            return TensorInfo(dtype, tuple(tensor.shape))
    raise MalformedTensor(f"{name}: expected a dtype among {', '.join(DTYPES)}, found {tensor.dtype}")


def _text(body: dict[str, JsonValue], digest: str) -> str:
    return strict_json.canonical_json(body | {"hash": digest})
