"""The naive solvers against the kernel's solution and against dense least squares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows, one_left_per_row, sort_rows
from moe_patch.solve import naive
from moe_patch.solve.algebra import edit_kernel, edit_response, expert_delta, ridge_solve
from moe_patch.solve.naive import solve_each_expert, solve_stacked


def random_rows(facts: int, experts: int, width: int, reach: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    expert = torch.cat([torch.randperm(experts, generator=generator)[:reach] for _ in range(facts)])
    value = torch.randn(facts * reach, width, generator=generator)
    return sort_rows(value, expert, torch.arange(facts).repeat_interleave(reach), facts)


@given(facts=st.integers(1, 6), experts=st.integers(2, 5), ridge=st.floats(0.01, 10), seed=st.integers(0, 99))
def test_stacked_normal_equations_give_the_kernels_edit(
    facts: int, experts: int, ridge: float, seed: int
) -> None:
    rows = random_rows(facts, experts, 7, 2, seed)
    residual = torch.randn(facts, 5, generator=torch.Generator().manual_seed(seed))
    expected = ridge_solve(edit_kernel(rows), residual, ridge)
    torch.testing.assert_close(solve_stacked(rows, residual, ridge), expected, atol=1e-4, rtol=1e-4)


def test_a_system_that_is_too_wide_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naive, "MOST_UNKNOWNS", 20)
    with pytest.raises(SolveError, match=r"of 3 experts with keys of width 7 has 21 unknowns.*solver exact"):
        solve_stacked(random_rows(9, 3, 7, 2, 0), torch.zeros(9, 5), 1.0)


def test_each_expert_alone_is_its_own_least_squares() -> None:
    rows, residual, ridge = random_rows(6, 4, 7, 2, 3), torch.randn(6, 5), 0.3
    left = solve_each_expert(rows, residual, ridge)
    own = one_left_per_row(rows)
    for expert in rows.experts():
        keys, fact = rows.of(expert)  # (n_e, d_k)
        wide = keys.double()
        normal = wide.T @ wide + ridge * torch.eye(7, dtype=torch.float64)
        expected = torch.linalg.solve(normal, wide.T @ residual[fact].double()).T  # (d_m, d_k)
        torch.testing.assert_close(expert_delta(left, own, expert).double(), expected, atol=1e-4, rtol=1e-4)


def test_experts_solved_alone_add_too_much_together() -> None:
    rows, residual = random_rows(3, 4, 32, 3, 1), torch.randn(3, 5)
    left = solve_each_expert(rows, residual, 1e-4)
    added = edit_response(left, one_left_per_row(rows), rows)  # (T, d_m)
    torch.testing.assert_close(added, 3 * residual.double(), atol=1e-2, rtol=1e-2)
