"""Files whose safetensors header lies, checked before anything that it declares is allocated."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_patch.errors import (
    MalformedHeader,
    MalformedLayout,
    MalformedMetadata,
    MalformedTensor,
    PatchError,
    PatchTooLarge,
    TruncatedPatch,
)
from moe_patch.patch import HeaderLimits, load
from tests.patch.hostile.forge import Json, put_together, saved, take_apart, with_header
from tests.patch.patches import delta_patch


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = saved(delta_patch(), tmp_path)
    load(path)
    return path


def refused(path: Path, error: type[PatchError], message: str, **options: Any) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        load(path, **options)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [0, 7])
def test_no_room_for_the_length(good: Path, size: int) -> None:
    os.truncate(good, size)
    refused(good, TruncatedPatch, f"is {size} bytes long")


def test_truncated_in_the_header(good: Path) -> None:
    os.truncate(good, 100)
    refused(good, TruncatedPatch, "within its header")


def test_truncated_in_the_data(good: Path) -> None:
    os.truncate(good, good.stat().st_size - 1)
    refused(good, TruncatedPatch, "declares")


def test_bytes_after_the_data(good: Path) -> None:
    good.write_bytes(good.read_bytes() + b"\0")
    refused(good, MalformedLayout, "1 bytes after")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 64 * 2**20 + 8])
def test_huge_header(good: Path, length: int) -> None:
    put_together(good, "{}", b"", length=length)
    refused(good, PatchTooLarge, f"a header of {length} bytes")


def test_limits_are_the_callers(good: Path) -> None:
    refused(good, PatchTooLarge, "the limit is 100", limits=HeaderLimits(header_bytes=100))
    refused(good, PatchTooLarge, "the limit is 1000", limits=HeaderLimits(file_bytes=1000))
    refused(good, PatchTooLarge, "declares 10 tensors; the limit is 9", limits=HeaderLimits(tensors=9))


def test_huge_file_that_is_all_hole(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    path.touch()
    os.truncate(path, 2**40)
    refused(path, PatchTooLarge, f"is {2**40} bytes long")


def test_unaligned_header(good: Path) -> None:
    header, data = take_apart(good)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8 + 1)
    good.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    refused(good, MalformedLayout, "multiple of 8")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "from { to }"),
        ("[]", "from { to }"),
        (" {}", "from { to }"),
        ("{}\n", "from { to }"),
        ("{} {}", "Extra data"),
        ('{"a":}', "strict JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 1}', "appears twice"),
        ('{"a": {"dtype": "F32", "dtype": "I32"}}', "appears twice"),
        (b'{"\xff": 1}', "not UTF-8"),
        ('{"a":' * 50 + "1" + "}" * 50, "nested deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ('{"a":' + "9" * 10_000 + "}", "strict JSON"),
        ('{"__metadata__": []}', "__metadata__: expected an object"),
        ('{"__metadata__": {"moe_patch": {}}}', "__metadata__.moe_patch: expected a string"),
    ],
)
def test_header_that_is_not_a_header(good: Path, header: str | bytes, message: str) -> None:
    refused(put_together(good, header, b""), MalformedHeader, message)


LEFT = "delta.1.left"


def entry(**changes: Any) -> Callable[[Json], None]:
    """Replace fields of one tensor's entry; None removes one."""

    def change(header: Json) -> None:
        header[LEFT] |= changes
        header[LEFT] = {key: value for key, value in header[LEFT].items() if value is not None}

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda header: header.update({LEFT: 1}), MalformedHeader, "expected an object"),
        (entry(dtype=None), MalformedHeader, "expected an object of dtype"),
        (entry(extra=1), MalformedHeader, "expected an object of dtype"),
        (entry(dtype=1), MalformedHeader, "dtype"),
        (entry(dtype="f32"), MalformedHeader, "dtype"),
        (entry(dtype="F8_E4M3"), MalformedHeader, "dtype"),
        (entry(shape=18), MalformedHeader, "shape: expected an array"),
        (entry(shape=[3, -6]), MalformedHeader, "integers of at least 0"),
        (entry(shape=[3, 6.0]), MalformedHeader, "integers of at least 0"),
        (entry(shape=[3, "6"]), MalformedHeader, "integers of at least 0"),
        (entry(shape=[18, True]), MalformedHeader, "integers of at least 0"),
        (entry(shape=[18] + [1] * 20), PatchTooLarge, "21 dimensions"),
        (entry(shape=[2**62, 2**62]), PatchTooLarge, "declares the shape"),
        (entry(shape=[0, 2**62]), PatchTooLarge, "declares the shape"),
        (entry(shape=[3, 5]), MalformedLayout, "takes 60 bytes"),
        (entry(dtype="F64"), MalformedLayout, "takes 144 bytes"),
        (entry(data_offsets=[0]), MalformedHeader, "a begin and an end"),
        (entry(data_offsets=[0, 72, 144]), MalformedHeader, "a begin and an end"),
        (entry(data_offsets=[72, 0]), MalformedLayout, "span -72"),
        (entry(data_offsets=[-72, 0]), MalformedHeader, "integers of at least 0"),
        (entry(data_offsets=[2, 74]), MalformedLayout, "not aligned"),
        (entry(data_offsets=[2**70, 2**70 + 72]), MalformedLayout, "belong to no tensor"),
        (entry(dtype="I32"), MalformedTensor, "expected F32"),
        (entry(shape=[18]), MalformedTensor, "expected F32 of shape (any, 6)"),
        (entry(shape=[6, 3]), MalformedTensor, "expected F32 of shape (any, 6)"),
        (lambda header: header.update({"delta.01.left": header.pop(LEFT)}), MalformedTensor, "missing"),
    ],
)
def test_an_entry_that_lies(
    good: Path, change: Callable[[Json], object], error: type[PatchError], message: str
) -> None:
    refused(with_header(good, change), error, message)


def test_overlapping_tensors(good: Path) -> None:
    def overlap(header: Json) -> None:
        header["delta.10.left"]["data_offsets"] = header[LEFT]["data_offsets"]

    refused(with_header(good, overlap), MalformedLayout, "overlaps")


def test_hole_between_tensors(good: Path) -> None:
    def shift(header: Json) -> None:
        last = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
        header[last]["data_offsets"] = [offset + 4 for offset in header[last]["data_offsets"]]

    refused(with_header(good, shift), MalformedLayout, "4 bytes between")


def test_tensor_that_leaves_the_file(good: Path) -> None:
    def grow(header: Json) -> None:
        last = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
        begin, end = header[last]["data_offsets"]
        header[last] |= {"data_offsets": [begin, end + 4 * 10**9], "shape": [(end - begin) // 4 + 10**9]}

    refused(with_header(good, grow), TruncatedPatch, "declares")


def test_nothing_is_allocated_for_what_is_only_declared(good: Path) -> None:
    """A tensor of 15 GB, under every limit but not in the file, costs no memory to refuse."""

    def inflate(header: Json) -> None:
        begin = header[LEFT]["data_offsets"][0]
        rows = 15 * 10**9 // 24
        header[LEFT] |= {"shape": [rows, 6], "data_offsets": [begin, begin + rows * 24]}

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(with_header(good, inflate), MalformedLayout, "overlaps")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_not_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "p.safetensors")
    refused(tmp_path / "p.safetensors", PatchError, "is not an ordinary file")


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "p.safetensors", PatchError, "No such file")


def test_another_safetensors_file(good: Path) -> None:
    refused(with_header(good, lambda header: header.pop("__metadata__")), MalformedMetadata, "found nothing")
