"""The covariance penalty against MEMIT's own formula and dense normal equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows, sort_rows
from moe_patch.solve.algebra import edit_kernel, expert_delta, ridge_solve
from moe_patch.solve.covariance import CovarianceWeighting
from moe_patch.solve.moments import Moments
from moe_patch.solve.whitening import key_moment

EXPERTS, WIDTH, OUT, FACTS = 3, 6, 4, 5


def moments(tokens: int = 40, seed: int = 0) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(EXPERTS, tokens, WIDTH, generator=generator)
    return Moments(2, keys.transpose(1, 2) @ keys, torch.full((EXPERTS,), tokens))


def random_rows(experts: int = EXPERTS, seed: int = 1) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    expert = torch.arange(experts).repeat(FACTS)
    value = torch.randn(FACTS * experts, WIDTH, generator=generator)
    return sort_rows(value, expert, torch.arange(FACTS).repeat_interleave(experts), FACTS)


def solved(rows: Rows, seen: Moments, residual: Tensor, weight: float, **options: float) -> list[Tensor]:
    """The experts' deltas (d_m, d_k)."""
    right = CovarianceWeighting(seen, **options)(rows)  # type: ignore[arg-type]
    left = ridge_solve(edit_kernel(rows, right), residual, weight)
    return [expert_delta(left, right, expert).double() for expert in range(EXPERTS)]


def test_one_expert_with_gate_one_is_memits_formula() -> None:
    seen, rows, residual = moments(), random_rows(1), torch.randn(FACTS, OUT)
    keys, _ = rows.of(0)  # (T, d_k)
    k, r, c = keys.double().T, residual.double().T, seen.mean(0)
    for weight in (0.1, 15.0):
        expected = r @ k.T @ torch.linalg.inv(weight * c + k @ k.T)
        found = solved(rows, seen, residual, weight, epsilon=1e-12)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_all_experts_together_are_one_dense_least_squares_problem() -> None:
    seen, rows, residual, weight = moments(), random_rows(), torch.randn(FACTS, OUT), 0.7
    stacked = torch.zeros(FACTS, EXPERTS * WIDTH, dtype=torch.float64)
    for expert, block in rows.blocks():
        stacked[rows.fact[block], expert * WIDTH : (expert + 1) * WIDTH] = rows.value[block].double()
    penalty = torch.block_diag(*(seen.mean(expert) for expert in range(EXPERTS)))
    flat = torch.linalg.solve(stacked.T @ stacked + weight * penalty, stacked.T @ residual.double())
    expected = flat.unflatten(0, (EXPERTS, WIDTH)).transpose(1, 2)  # (E, d_m, d_k)
    found = torch.stack(solved(rows, seen, residual, weight, epsilon=1e-12))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_directions_that_text_uses_more_are_changed_less() -> None:
    strong = torch.eye(WIDTH)
    strong[0, 0] = 1e6
    seen = Moments(0, strong.repeat(EXPERTS, 1, 1) * 10, torch.full((EXPERTS,), 10))
    for delta in solved(random_rows(), seen, torch.randn(FACTS, OUT), 1.0):
        assert float(delta[:, 0].norm()) < 1e-4 * float(delta[:, 1:].norm())


def test_an_expert_with_too_few_tokens_takes_the_moment_of_all() -> None:
    seen, rows = moments(), random_rows()
    few = Moments(2, seen.second, torch.tensor([40, 40, 3]))
    found = CovarianceWeighting(few, epsilon=1e-12, min_tokens=10)(rows)
    own, _ = rows.of(2)
    expected = own.double() @ torch.linalg.inv(key_moment(few))
    torch.testing.assert_close(found.of(2)[0].double(), expected, atol=1e-5, rtol=1e-4)


def test_a_moment_of_fewer_tokens_than_directions_has_an_inverse_by_epsilon() -> None:
    found = CovarianceWeighting(moments(tokens=2), epsilon=1e-3)(random_rows())
    assert bool(torch.isfinite(found.value).all())


def test_a_moment_without_an_inverse_is_named() -> None:
    nothing = Moments(7, torch.zeros(EXPERTS, WIDTH, WIDTH), torch.full((EXPERTS,), 5))
    with pytest.raises(SolveError, match="layer 7, expert 0: the second moment of preserved keys has no"):
        CovarianceWeighting(nothing)(random_rows())
