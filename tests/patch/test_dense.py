"""Dense changes of experts: in memory, in files, and what is refused of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from moe_patch.errors import MalformedTensor, NotFinite, PatchError, SolveError, WrongBase
from moe_patch.patch import Dense, LayerDelta, Patch, check_shapes, load, save
from moe_patch.patch.dense import add_dense
from tests.patch.hostile.forge import Json, put_together, saved, take_apart, with_metadata, with_value
from tests.patch.patches import D_KEY, D_MODEL, NUM_EXPERTS, delta_patch, fingerprint, layer_delta

INDEX = "delta.1.dense_expert"


def dense_of(experts: list[int], seed: int = 0) -> Dense:
    generator = torch.Generator().manual_seed(seed)
    return Dense(torch.randn(len(experts), D_MODEL, D_KEY, generator=generator), torch.tensor(experts))


def dense_patch(experts: list[int], seed: int = 0, *, low_rank: bool = False) -> Patch:
    own = layer_delta(3, torch.Generator().manual_seed(seed))
    dense = dense_of(experts, seed)
    whole = (
        replace(own, dense=dense, residual=None) if low_rank else LayerDelta.whole(dense, own.rows, D_MODEL)
    )
    return delta_patch(edited=(1,), layers={1: whole})


sets_of_experts = st.sets(st.integers(0, NUM_EXPERTS - 1), min_size=1).map(sorted)


@given(experts=sets_of_experts, seed=st.integers(0, 1000), low_rank=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dense_delta_survives_its_file(
    tmp_path: Path, experts: list[int], seed: int, low_rank: bool
) -> None:
    patch = dense_patch(experts, seed, low_rank=low_rank)
    save(patch, tmp_path / "p.safetensors")
    found = load(tmp_path / "p.safetensors")
    assert found.hash == patch.hash
    before, after = patch.layers[1], found.layers[1]
    assert after.dense is not None
    assert before.dense is not None
    assert torch.equal(after.dense.value, before.dense.value)
    assert after.dense.experts() == experts
    assert after.experts() == sorted({*experts, *before.rows.experts()})
    for expert in range(NUM_EXPERTS):
        assert after.touches(expert) == (expert in after.experts())
        assert torch.equal(after.matrix(expert), before.matrix(expert))
    assert after.fact_rows.num_facts == len(patch.facts)


@given(first=sets_of_experts, second=sets_of_experts)
@settings(max_examples=40, deadline=None)
def test_a_sum_has_what_either_has(first: list[int], second: list[int]) -> None:
    total = add_dense(dense_of(first, 1), dense_of(second, 2))
    assert total is not None

    def spread(dense: Dense) -> Tensor:
        whole = torch.zeros(NUM_EXPERTS, D_MODEL, D_KEY)
        whole[dense.expert] = dense.value
        return whole

    torch.testing.assert_close(spread(total), spread(dense_of(first, 1)) + spread(dense_of(second, 2)))
    assert total.experts() == sorted({*first, *second})


def test_nothing_adds_nothing() -> None:
    one = dense_of([3])
    assert add_dense(None, one) is add_dense(one, None) is one
    assert add_dense(None, None) is None


@pytest.mark.parametrize("experts", [[2, 1], [1, 1]])
def test_experts_ascend(experts: list[int]) -> None:
    with pytest.raises(SolveError, match="ascend"):
        dense_of(experts)


def test_widths_are_those_of_the_factors() -> None:
    own = layer_delta(3, torch.Generator())
    with pytest.raises(SolveError, match=r"do not fit \(d_m, d_k\) \(6, 4\)"):
        replace(own, dense=Dense(torch.zeros(1, D_KEY, D_MODEL), torch.tensor([0])))


def test_the_rank_of_a_matrix_is_its_smaller_side() -> None:
    delta = dense_patch([1, 5], low_rank=True).layers[1]
    assert delta.rank(1) == delta.rank(5) == min(D_MODEL, D_KEY)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return saved(dense_patch([1, 4, 6]), tmp_path)


def refused(path: Path, error: type[PatchError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        load(path)


def put(index: int, value: float) -> Callable[[Tensor], object]:
    return lambda values: values.reshape(-1).__setitem__(index, value)


@pytest.mark.parametrize("expert", [8, -1, 2**31 - 1, -(2**31)])
def test_an_expert_that_the_base_does_not_have(good: Path, expert: int) -> None:
    message = f"{INDEX}: expected numbers from 0 to 7, found {expert}"
    refused(with_value(good, INDEX, put(2, expert)), MalformedTensor, message)


@pytest.mark.parametrize("expert", [1, 0])
def test_experts_of_a_file_ascend(good: Path, expert: int) -> None:
    refused(with_value(good, INDEX, put(1, expert)), MalformedTensor, "but number 1 does not")


def test_not_finite(good: Path) -> None:
    refused(with_value(good, "delta.1.dense", put(-1, float("nan"))), NotFinite, "delta.1.dense")


def reshaped(path: Path, name: str, shape: list[int]) -> Path:
    header, data = take_apart(path)
    header[name]["shape"] = shape
    return put_together(path, header, data)


@pytest.mark.parametrize("shape", [[3, D_KEY, D_MODEL], [3 * D_MODEL, D_KEY], [1, 3 * D_MODEL, D_KEY]])
def test_a_shape_that_is_not_the_layers(good: Path, shape: list[int]) -> None:
    refused(reshaped(good, "delta.1.dense", shape), MalformedTensor, "delta.1.dense: expected F32 of shape")


def test_more_matrices_than_experts() -> None:
    value = torch.zeros(NUM_EXPERTS + 1, D_MODEL, D_KEY)
    own = layer_delta(3, torch.Generator()).rows
    many = LayerDelta.whole(Dense(value, torch.arange(NUM_EXPERTS + 1)), own, D_MODEL)
    with pytest.raises(MalformedTensor, match="matrices of 1 to 8 experts, found 9"):
        save(delta_patch(edited=(1,), layers={1: many}), Path("unwritten.safetensors"))


@pytest.mark.parametrize("gone", ["dense", "dense_expert"])
def test_one_without_the_other(good: Path, gone: str) -> None:
    def without(header: Json) -> None:
        header[f"bypass.{gone}"] = header.pop(f"delta.1.{gone}")

    header, data = take_apart(good)
    without(header)
    with pytest.raises(MalformedTensor, match=r"delta\.1\.dense_expert|bypass"):
        load(put_together(good, header, data))


def test_a_residual_beside_it_is_refused() -> None:
    own = layer_delta(3, torch.Generator())
    both = delta_patch(edited=(1,), layers={1: replace(own, dense=dense_of([2]))})
    with pytest.raises(MalformedTensor, match=r"solve\.1\.residual: not expected beside delta\.1\.dense"):
        save(both, Path("unwritten.safetensors"))


def test_format_1_has_none(good: Path) -> None:
    def older(metadata: Json) -> None:
        metadata["format"] = 1
        del metadata["schema"], metadata["base"]["nodes"], metadata["base"]["tokens"]

    refused(with_metadata(good, older), MalformedTensor, "delta.1.dense: not expected in format 1")


def test_a_base_with_fewer_experts_is_refused() -> None:
    sizes = {1: (7, D_MODEL, D_KEY)}
    patch = replace(dense_patch([7]), base=replace(fingerprint(1), shapes=sizes))
    with pytest.raises(WrongBase, match="do not fit its sizes"):
        check_shapes(patch, sizes)
