"""The header of a safetensors file, checked against limits before anything that it declares is allocated.

The safetensors library checks most of this as well. Since patches come from strangers, it is checked here
first: against our own limits, with a separate error for each fault, and also where the library is lenient
(keys that appear twice, unaligned tensors, empty tensors of absurd shape).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import FileIO

import torch
from pydantic import JsonValue

from moe_patch.errors import MalformedHeader, MalformedLayout, PatchTooLarge, TruncatedPatch
from moe_patch.io import strict_json
from moe_patch.io.reading import read_exactly

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""The dtypes a patch may hold, by their safetensors names."""

_LENGTH = 8  # bytes of the little-endian number at the start, which is the length of the JSON
_ALIGNMENT = 8  # bytes; the data starts at a multiple, so that every dtype is aligned in a mapped file
_MAX_RANK = 8


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """The most that a reader accepts."""

    file_bytes: int = 16 * 2**30
    header_bytes: int = 64 * 2**20
    tensors: int = 2**16  # how many of them


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's declared dtype, by its safetensors name, its shape, and its place in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the end of the header

    @property
    def end(self) -> int:
        """The byte after its last one."""
        return self.begin + self.nbytes

    @property
    def nbytes(self) -> int:
        """The size in bytes that follows from shape and dtype."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors that a safetensors file declares, by name, its text metadata, and the bytes of its data."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_bytes: int


def read_header(file: FileIO, size: int, limits: HeaderLimits) -> Header:
    """Read and check the header of an opened safetensors file, up to where its data begins.

    Args:
        file: at its start.
        size: bytes of the whole file.
        limits: the most to accept.

    Raises:
        OSError: the system refuses to read.
        PatchTooLarge: it declares more than `limits` allow.
        TruncatedPatch: it ends before the data that the header declares.
        MalformedHeader: the header is not the JSON that the safetensors format requires.
        MalformedLayout: the tensors overlap, leave gaps, are not aligned, or do not fill the file exactly.
    """
    raw = _read_json(file, size, limits)
    entries = _parse(raw)
    metadata = _metadata(entries.pop("__metadata__", {}))
    if len(entries) > limits.tensors:
        raise PatchTooLarge(f"declares {len(entries)} tensors; the limit is {limits.tensors}")
    tensors = {name: _tensor(name, entry, limits) for name, entry in entries.items()}
    header = Header(tensors, metadata, size - _LENGTH - len(raw))
    _check_layout(header)
    return header


def _is_text(raw: bytes | bytearray) -> bool:
    """Whether bytes could be of a text in UTF-8: none is a control character but white space."""
    return all(32 <= byte < 127 or 9 <= byte <= 13 or 128 <= byte < 248 for byte in raw)


def _read_json(file: FileIO, size: int, limits: HeaderLimits) -> bytearray:
    if size > limits.file_bytes:
        raise PatchTooLarge(f"is {size} bytes long; the limit is {limits.file_bytes}")
    if size < _LENGTH:
        raise TruncatedPatch(f"is {size} bytes long; a safetensors file has at least {_LENGTH}")
    begin = read_exactly(file, _LENGTH)
    if _is_text(begin):  # the last byte of a length within any limit is zero, which no text has
        raise MalformedHeader("begins as a text does, and is no patch: facts are given with --edits")
    length = int.from_bytes(begin, "little")
    if length > limits.header_bytes:
        raise PatchTooLarge(f"declares a header of {length} bytes; the limit is {limits.header_bytes}")
    if _LENGTH + length > size:
        raise TruncatedPatch(f"ends after {size} bytes, within its header of {length}")
    if length % _ALIGNMENT:
        raise MalformedLayout(f"expected a header padded to a multiple of {_ALIGNMENT} bytes, found {length}")
    return read_exactly(file, length)


def _parse(raw: bytearray) -> dict[str, JsonValue]:
    if raw[:1] != b"{" or raw.rstrip(b" ")[-1:] != b"}":
        raise MalformedHeader("expected a header from { to }, padded only with spaces and only at its end")
    try:
        entries = strict_json.parse_json(raw.decode())
    except UnicodeDecodeError as error:
        raise MalformedHeader(f"the header is not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise MalformedHeader(f"the header is not strict JSON: {error}") from error
    if not isinstance(entries, dict):  # impossible after the brace, but the type checker cannot know
        raise MalformedHeader(f"expected an object, found {strict_json.describe_json(entries)}")
    return entries


def _metadata(value: JsonValue) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MalformedHeader(f"__metadata__: expected an object, found {strict_json.describe_json(value)}")
    texts: dict[str, str] = {}
    for key, text in value.items():
        if not isinstance(text, str):
            raise MalformedHeader(
                f"__metadata__.{key}: expected a string, found {strict_json.describe_json(text)}"
            )
        texts[key] = text
    return texts


def _tensor(name: str, entry: JsonValue, limits: HeaderLimits) -> TensorInfo:
    """The tensor that one entry of the header declares, after the checks that need only this entry."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedHeader(f"{name}: expected an object of dtype, shape and data_offsets")
    dtype, offsets = entry["dtype"], _counts(f"{name}.data_offsets", entry["data_offsets"])
    shape = _counts(f"{name}.shape", entry["shape"])
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedHeader(f"{name}.dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    if len(shape) > _MAX_RANK:
        raise PatchTooLarge(f"{name} declares {len(shape)} dimensions; the limit is {_MAX_RANK}")
    if math.prod(max(side, 1) for side in shape) * DTYPES[dtype].itemsize > limits.file_bytes:
        raise PatchTooLarge(f"{name} declares the shape {shape}; the limit is {limits.file_bytes} bytes")
    if len(offsets) != 2:
        raise MalformedHeader(
            f"{name}.data_offsets: expected a begin and an end, found {len(offsets)} numbers"
        )
    begin, end = offsets
    info = TensorInfo(dtype, shape, begin)
    if end != info.end:
        raise MalformedLayout(
            f"{name}: {dtype} of shape {shape} takes {info.nbytes} bytes, but its offsets span {end - begin}"
        )
    if begin % DTYPES[dtype].itemsize:
        raise MalformedLayout(f"{name}: {dtype} begins at byte {begin}, which is not aligned to it")
    return info


def _counts(place: str, value: JsonValue) -> tuple[int, ...]:
    """A JSON array of integers of at least 0. Python counts booleans as integers; JSON does not."""
    if not isinstance(value, list):
        raise MalformedHeader(f"{place}: expected an array, found {strict_json.describe_json(value)}")
    counts = [item for item in value if isinstance(item, int) and not isinstance(item, bool) and item >= 0]
    if len(counts) != len(value):
        raise MalformedHeader(f"{place}: expected integers of at least 0")
    return tuple(counts)


def _check_layout(header: Header) -> None:
    """Check that the tensors, ordered by offset, fill the data without gap or overlap."""
    reached, before = 0, "the header"
    for name, info in sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin < reached:
            raise MalformedLayout(f"{name} overlaps {before}: begins at {info.begin}, before {reached}")
        if info.begin > reached:
            raise MalformedLayout(
                f"{info.begin - reached} bytes between {before} and {name} belong to no tensor"
            )
        reached, before = info.end, name
    if reached > header.data_bytes:
        raise TruncatedPatch(f"declares {reached} bytes of tensors, but only {header.data_bytes} are there")
    if reached < header.data_bytes:
        raise MalformedLayout(f"{header.data_bytes - reached} bytes after {before} belong to no tensor")
