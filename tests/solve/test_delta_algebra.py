"""What deltas with dense matrices do, against sums over dense experts."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moe_patch.patch import Dense, LayerDelta
from moe_patch.solve.delta_algebra import delta_penalties, delta_product, delta_response
from tests.patch.patches import D_KEY, D_MODEL, NUM_EXPERTS, layer_delta

sets_of_experts = st.sets(st.integers(0, NUM_EXPERTS - 1)).map(sorted)


def made(experts: list[int], seed: int) -> LayerDelta:
    generator = torch.Generator().manual_seed(seed)
    delta = layer_delta(3, generator)
    if not experts:
        return delta
    value = torch.randn(len(experts), D_MODEL, D_KEY, generator=generator)
    return replace(delta, dense=Dense(value, torch.tensor(experts)))


def dense(delta: LayerDelta) -> Tensor:
    """(E, d_m, d_k) fp64, row by row."""
    total = torch.zeros(NUM_EXPERTS, D_MODEL, D_KEY, dtype=torch.float64)
    for expert, fact, value in zip(delta.rows.expert, delta.rows.fact, delta.rows.value, strict=True):
        total[expert] += torch.outer(delta.left[fact].double(), value.double())
    if delta.dense is not None:
        total[delta.dense.expert] += delta.dense.value.double()
    return total


@given(experts=sets_of_experts, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_response_is_the_sum_over_experts(experts: list[int], seed: int) -> None:
    delta, probe = made(experts, seed), layer_delta(5, torch.Generator().manual_seed(seed + 1)).rows
    expected = torch.zeros(5, D_MODEL, dtype=torch.float64)
    for expert, fact, value in zip(probe.expert, probe.fact, probe.value, strict=True):
        expected[fact] += dense(delta)[expert] @ value.double()
    torch.testing.assert_close(delta_response(delta, probe), expected, atol=1e-5, rtol=1e-5)


@given(first=sets_of_experts, second=sets_of_experts, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_penalties_and_products_are_those_of_the_matrices(
    first: list[int], second: list[int], seed: int
) -> None:
    one, other = made(first, seed), made(second, seed + 7)
    norms = dense(one).square().sum((1, 2))
    found = delta_penalties(one)
    assert list(found) == one.experts()
    for expert, square in found.items():
        assert square == pytest.approx(float(norms[expert]), rel=1e-4, abs=1e-6)
    product = float((dense(one) * dense(other)).sum())
    assert delta_product(one, other) == pytest.approx(product, rel=1e-4, abs=1e-4)
