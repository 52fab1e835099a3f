"""Files whose tensors have values that are impossible in a patch, and files with damage at any byte."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from moe_patch.errors import HashMismatch, MalformedTensor, NotFinite, PatchError, WrongBase
from moe_patch.patch import check_base, load
from tests.patch.hostile.forge import (
    Json,
    put_together,
    saved,
    take_apart,
    with_header,
    with_metadata,
    with_value,
)
from tests.patch.patches import bypass_patch, delta_patch, digest, layer_delta, with_left_per_row

EVERYWHERE = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A patch with a left factor for each row in layer 1, so that every kind of tensor is there."""
    random = torch.Generator().manual_seed(0)
    delta = with_left_per_row(layer_delta(3, random, hits=0.6), random)
    return saved(delta_patch(edited=(1,), layers={1: delta}), tmp_path)


def refused(path: Path, error: type[PatchError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        load(path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)


def put(index: int, value: float) -> Callable[[torch.Tensor], object]:
    return lambda values: values.reshape(-1).__setitem__(index, value)


@pytest.mark.parametrize("name", ["delta.1.left", "delta.1.right", "solve.1.residual", "solve.1.key"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(good: Path, name: str, value: float) -> None:
    refused(with_value(good, name, put(-1, value)), NotFinite, name)


@pytest.mark.parametrize("group", ["delta.1", "solve.1"])
@pytest.mark.parametrize("expert", [8, 2**31 - 1, -1, -(2**31)])
def test_expert_that_the_base_does_not_have(good: Path, group: str, expert: int) -> None:
    message = f"{group}.expert: expected numbers from 0 to 7, found {expert}"
    refused(with_value(good, f"{group}.expert", put(-1, expert)), MalformedTensor, message)


@pytest.mark.parametrize("fact", [3, 2**31 - 1, -1])
def test_fact_that_the_patch_does_not_have(good: Path, fact: int) -> None:
    message = f"solve.1.fact: expected numbers from 0 to 2, found {fact}"
    refused(with_value(good, "solve.1.fact", put(0, fact)), MalformedTensor, message)


def test_left_factor_that_is_not_there(good: Path) -> None:
    rows = len(load(good).layers[1].left)
    message = f"delta.1.fact: expected numbers from 0 to {rows - 1}, found {rows}"
    refused(with_value(good, "delta.1.fact", put(-1, rows)), MalformedTensor, message)


@pytest.mark.parametrize("group", ["delta.1", "solve.1"])
def test_unsorted_experts(good: Path, group: str) -> None:
    change = lambda values: values.copy_(values.flip(0))  # noqa: E731
    refused(
        with_value(good, f"{group}.expert", change), MalformedTensor, f"{group}: expected rows that ascend"
    )


def test_row_that_is_there_twice(good: Path) -> None:
    with_value(good, "solve.1.expert", lambda values: values.fill_(0))
    refused(good, MalformedTensor, "solve.1: expected rows that ascend")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("delta.1.right", "delta.1.right: expected F32 of shape (any, 4), but the tensor is missing"),
        ("solve.1.expert", "solve.1.expert: expected I32"),
        ("solve.1.key", "solve.1.key"),
    ],
)
def test_missing_tensor(good: Path, gone: str, message: str) -> None:
    refused(without(good, gone), MalformedTensor, message)


def without(path: Path, gone: str) -> Path:
    """The file without one tensor and its bytes."""
    header, data = take_apart(path)
    begin, end = header.pop(gone)["data_offsets"]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return put_together(path, header, data[:begin] + data[end:])


def rename(old: str, new: str) -> Callable[[Json], None]:
    return lambda header: header.update({new: header.pop(old)})


@pytest.mark.parametrize("name", ["delta.2.left", "bypass.x", "solve.1.extra", "../../etc/passwd", ""])
def test_unknown_tensor(good: Path, name: str) -> None:
    refused(with_header(good, rename("solve.1.residual", name)), MalformedTensor, f"{name}: no such tensor")


@pytest.mark.parametrize("name", ["bypass.", "delta.3.left"])
def test_unknown_tensor_in_a_bypass(tmp_path: Path, name: str) -> None:
    path = with_header(saved(bypass_patch(), tmp_path), rename("bypass.3.counts", name))
    refused(path, MalformedTensor, f"{name}: no such tensor in a patch of kind bypass")


def test_more_left_factors_than_facts_without_keys(tmp_path: Path) -> None:
    delta = layer_delta(3, torch.Generator().manual_seed(0))
    path = saved(delta_patch(edited=(1,), layers={1: delta}), tmp_path)

    def drop_a_fact(metadata: Json) -> None:
        metadata["facts"].pop()
        metadata["results"].pop()

    refused(
        with_metadata(path, drop_a_fact), MalformedTensor, "solve.1.residual: expected F32 of shape (2, 6)"
    )


def test_shapes_of_another_base(good: Path) -> None:
    def wider(metadata: Json) -> None:
        metadata["base"]["layers"]["1"]["shape"] = [8, 7, 4]

    refused(with_metadata(good, wider), MalformedTensor, "delta.1.left: expected F32 of shape (any, 7)")


def test_changed_value_under_the_old_hash(good: Path) -> None:
    header, data = take_apart(good)
    place, _ = header["delta.1.left"]["data_offsets"]  # the lowest byte of a float: still finite
    put_together(good, header, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    refused(good, HashMismatch, "the content has the hash")


def test_fingerprint_of_another_base(good: Path) -> None:
    """Such a file is valid. Only a comparison with a model shows that it belongs to another one."""
    own = load(good).base

    def graft(metadata: Json) -> None:
        metadata["base"]["layers"]["1"]["experts"] = digest(5)

    patch = load(with_metadata(good, graft))
    check_base(patch, replace(own, experts={1: digest(5)}))
    with pytest.raises(WrongBase, match="expert weights of layer 1"):
        check_base(patch, own)


@EVERYWHERE
@given(data=st.data())
def test_any_changed_byte_is_refused(good: Path, data: st.DataObject) -> None:
    raw = bytearray(good.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    damaged = good.with_name("damaged.safetensors")
    damaged.write_bytes(raw)
    with pytest.raises(PatchError, match="damaged"):
        load(damaged)


@EVERYWHERE
@given(data=st.data())
def test_any_truncation_is_refused(good: Path, data: st.DataObject) -> None:
    raw = good.read_bytes()
    damaged = good.with_name("damaged.safetensors")
    damaged.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(PatchError, match="damaged"):
        load(damaged)


@EVERYWHERE
@given(header=st.binary(max_size=200), rest=st.binary(max_size=50))
def test_noise_is_refused(tmp_path: Path, header: bytes, rest: bytes) -> None:
    noise = put_together(tmp_path / "noise.safetensors", header, rest)
    with pytest.raises(PatchError, match="noise"):
        load(noise)
