"""UltraEdit's algebra against its published form on dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.solve.lifelong import RunningStatistics, one_step, value_shift


@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_running_statistics_are_those_of_all_features_together(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [5 + 3 * torch.randn(size, 4, generator=generator, dtype=torch.float64) for size in sizes]
    whole, found = torch.cat(parts), RunningStatistics(4)
    for part in parts:
        found.update(part)
    assert found.count == len(whole)
    if len(whole) > 1:
        torch.testing.assert_close(found.mean, whole.mean(0))
        torch.testing.assert_close(found.deviation, whole.std(0))


def test_a_shift_is_along_the_normalised_gradient_by_the_square_of_the_normalised_key() -> None:
    keys, gradients, statistics = torch.randn(9, 3), torch.randn(9, 2), RunningStatistics(5)
    features = torch.cat([keys, gradients], 1).double()
    statistics.update(features)
    statistics.update(features + 1)  # of a later batch
    found = value_shift(keys, gradients, statistics, 0.2)
    normal = (features - statistics.mean) / (statistics.deviation + torch.finfo(torch.float32).eps)
    for row, one in zip(normal, found, strict=True):
        torch.testing.assert_close(one, -0.2 * row[:3].square().sum() * row[3:])


@pytest.mark.parametrize(("tokens", "ridge"), [(3, 1.0), (12, 0.05)])
def test_one_step_is_the_published_ridge_solution(tokens: int, ridge: float) -> None:
    keys, shift = torch.randn(tokens, 6), torch.randn(tokens, 4)
    wide = keys.double()
    normal = wide.T @ wide + ridge * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(normal, wide.T @ shift.double()).T  # (d_m, d_k)
    found = one_step(keys, shift, ridge).T @ wide
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)
