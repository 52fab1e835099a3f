"""The core solve against brute force, on both of its sides; the rows that store it, and their truncation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_patch.errors import PatchError
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows, sort_rows
from moe_patch.solve import algebra
from moe_patch.solve.nullspace import NullSpace
from moe_patch.solve.tucker import Factors
from moe_patch.solve.tucker_edit import (
    Manifold,
    _by_core,
    _by_facts,
    compress_rows,
    expand_rows,
    solve_core,
    truncate_delta,
)
from moe_patch.solve.whitening import NOT_WHITENED, Root, Whitening, square_root

EXPERTS, D_MODEL, D_KEY, RIDGE = 5, 7, 6, 0.3
FULL = (EXPERTS, D_MODEL, D_KEY)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(size: int, rank: int, seed: int) -> Tensor:
    square = torch.randn(size, size, generator=generator(seed), dtype=torch.float64)
    return torch.linalg.qr(square).Q[:, :rank]


def random_rows(facts: int, seed: int = 0) -> Rows:
    """Each fact at two experts."""
    expert = torch.stack([torch.randperm(EXPERTS, generator=generator(seed + t))[:2] for t in range(facts)])
    value = torch.randn(facts * 2, D_KEY, generator=generator(seed + 100))
    return sort_rows(value, expert.flatten(), torch.arange(facts).repeat_interleave(2), facts)


def random_projection(seed: int = 3) -> NullSpace:
    basis = {expert: orthonormal(D_KEY, 2, seed + expert) for expert in range(EXPERTS)}
    return NullSpace(0, basis, torch.ones(EXPERTS, dtype=torch.int64), (), "test")


def random_whitening(kind: str) -> Whitening:
    def root(size: int, seed: int) -> Root:
        factor = torch.randn(size, size, generator=generator(seed), dtype=torch.float64)
        return square_root(factor @ factor.T, 0.1)

    return Whitening(
        inner=root(D_KEY, 11) if kind in {"in", "both"} else None,
        out=root(D_MODEL, 12) if kind in {"out", "both"} else None,
    )


def manifold_of(ranks: tuple[int, int, int], whitening: Whitening = NOT_WHITENED, seed: int = 20) -> Manifold:
    sizes = zip(FULL, ranks, strict=True)
    return Manifold.of(Factors(*(orthonormal(n, r, seed + n) for n, r in sizes)), whitening)


def dense(left: Tensor, rows: Rows) -> Tensor:
    """(E, d_m, d_k)."""
    return torch.stack([algebra.expert_delta(left, rows, expert) for expert in range(EXPERTS)])


@pytest.mark.parametrize("facts", [3, 60])
@pytest.mark.parametrize("kind", ["none", "in", "out", "both"])
def test_the_core_is_the_least_squares_solution_over_all_cores(kind: str, facts: int) -> None:
    ranks, whitening = (2, 3, 4), random_whitening(kind)
    manifold, rows = manifold_of(ranks, whitening), random_rows(facts)
    residual = torch.randn(facts, D_MODEL, generator=generator(5), dtype=torch.float64)
    weigh = torch.eye(D_MODEL, dtype=torch.float64) if whitening.out is None else whitening.out.inverse

    def outputs(core: Tensor) -> Tensor:
        """What the delta of a core (r_e, r_out, r_in) adds for each fact, in whitened outputs: (T, d_m)."""
        deltas = torch.einsum("ja,mo,aoi,ki->jmk", manifold.expert, manifold.write, core, manifold.inner)
        added = torch.zeros(facts, D_MODEL, dtype=torch.float64)
        for value, expert, fact in zip(rows.value.double(), rows.expert, rows.fact, strict=True):
            added[fact] += deltas[expert] @ value
        return added @ weigh

    unit = torch.eye(2 * 3 * 4, dtype=torch.float64).reshape(-1, *ranks)
    design = torch.stack([outputs(core).flatten() for core in unit], dim=1)  # (T d_m, 24)
    normal = design.T @ design + RIDGE * torch.eye(24, dtype=torch.float64)
    expected = torch.linalg.solve(normal, design.T @ (residual @ weigh).flatten()).reshape(ranks)

    compressed = compress_rows(rows, manifold)
    left = solve_core(compressed, residual @ manifold.read, RIDGE)
    core = torch.einsum("to,tai->aoi", left, compressed)
    torch.testing.assert_close(core, expected)


@pytest.mark.parametrize("facts", [4, 30])
def test_both_sides_of_the_push_through_agree(facts: int) -> None:
    manifold = manifold_of((2, 3, 4))
    compressed = compress_rows(random_rows(facts), manifold).flatten(1)
    residual = torch.randn(facts, 3, generator=generator(5), dtype=torch.float64)
    by_facts, by_core = _by_facts(compressed, residual, RIDGE), _by_core(compressed, residual, RIDGE)
    torch.testing.assert_close(by_facts, by_core)
    assert by_facts.norm() > 0.1


def test_at_full_ranks_the_edit_is_the_woodbury_solution_with_the_facts_own_rows() -> None:
    rows, manifold = random_rows(4), manifold_of(FULL)
    residual = torch.randn(4, D_MODEL, generator=generator(5), dtype=torch.float64)
    compressed = compress_rows(rows, manifold)
    left = solve_core(compressed, residual @ manifold.read, RIDGE) @ manifold.write.T
    right = expand_rows(compressed, manifold, None)
    torch.testing.assert_close(left, algebra.ridge_solve(algebra.edit_kernel(rows), residual, RIDGE))
    torch.testing.assert_close(right.value, rows.value)
    assert torch.equal(right.expert, rows.expert)
    assert torch.equal(right.fact, rows.fact)


@pytest.mark.parametrize("kind", ["none", "both"])
@pytest.mark.parametrize("project", [True, False])
def test_rows_and_left_factor_are_the_dense_delta_of_the_core(kind: str, *, project: bool) -> None:
    manifold, rows = manifold_of((2, 3, 4), random_whitening(kind)), random_rows(4)
    projection = random_projection() if project else None
    compressed = compress_rows(rows, manifold)
    left = torch.randn(4, 3, generator=generator(6), dtype=torch.float64)
    core = torch.einsum("to,tai->aoi", left, compressed)
    expected = torch.einsum("ja,mo,aoi,ki->jmk", manifold.expert, manifold.write, core, manifold.inner)
    if projection is not None:
        bases = torch.stack([projection.basis[expert] for expert in range(EXPERTS)])  # (E, d_k, 2)
        expected = expected - expected @ bases @ bases.transpose(1, 2)
    right = expand_rows(compressed, manifold, projection)
    torch.testing.assert_close(
        dense(left @ manifold.write.T, right), expected, rtol=1e-5, atol=1e-5, check_dtype=False
    )


def test_before_projection_the_delta_lies_in_the_span_of_all_three_factors() -> None:
    manifold, rows = manifold_of((2, 3, 4)), random_rows(6)
    compressed = compress_rows(rows, manifold)
    left = solve_core(compressed, torch.randn(6, 3, generator=generator(7), dtype=torch.float64), RIDGE)
    delta = dense(left @ manifold.write.T, expand_rows(compressed, manifold, None))
    for mode, factor in enumerate((manifold.expert, manifold.write, manifold.inner)):
        unfolded = delta.double().movedim(mode, 0).flatten(1)
        inside = factor @ factor.T @ unfolded
        assert (inside - unfolded).norm() < 1e-6 * unfolded.norm()
        assert int(torch.linalg.matrix_rank(unfolded, rtol=1e-5)) <= factor.shape[1]
    assert delta.norm() > 0.1


@pytest.mark.parametrize("kind", ["none", "both"])
@pytest.mark.parametrize("project", [True, False])
def test_the_stored_rows_give_back_the_gram_matrix_that_was_solved(kind: str, *, project: bool) -> None:
    manifold = manifold_of((2, 3, 4), random_whitening(kind))
    projection = random_projection() if project else None
    rows = random_rows(5) if projection is None else projection.project_rows(random_rows(5))
    compressed = compress_rows(rows, manifold)
    gram = compressed.flatten(1) @ compressed.flatten(1).T
    stored = algebra.edit_kernel(rows, expand_rows(compressed, manifold, projection))
    torch.testing.assert_close(stored, gram, rtol=1e-5, atol=1e-6)


def test_a_fully_protected_expert_gets_no_row() -> None:
    basis = {expert: torch.zeros(D_KEY, 0, dtype=torch.float64) for expert in range(EXPERTS)}
    basis[2] = torch.eye(D_KEY, dtype=torch.float64)
    projection = NullSpace(0, basis, torch.ones(EXPERTS, dtype=torch.int64), (2,), "test")
    manifold = manifold_of((2, 3, 4))
    expanded = expand_rows(compress_rows(random_rows(4), manifold), manifold, projection)
    assert expanded.experts() == [0, 1, 3, 4]


def delta_of(facts: int) -> LayerDelta:
    manifold, rows = manifold_of((3, 5, 5)), random_rows(facts)
    compressed = compress_rows(rows, manifold)
    residual = torch.randn(facts, 5, generator=generator(8), dtype=torch.float64)
    right = expand_rows(compressed, manifold, None)
    return LayerDelta.from_solution(
        solve_core(compressed, residual, RIDGE) @ manifold.write.T,
        right,
        fact_rows=rows,
        residual=residual.float() @ manifold.write.float().T,
        ridge=RIDGE,
    )


def delta_matrix(delta: LayerDelta) -> Tensor:
    """All experts' deltas side by side, (d_m, E d_k) fp64."""
    return dense(delta.left.double(), delta.rows).movedim(1, 0).flatten(1)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_truncation_is_the_best_of_its_rank_and_states_its_error(rank: int) -> None:
    delta = delta_of(6)
    cut, error = truncate_delta(delta, rank)
    whole = delta_matrix(delta)
    values = torch.linalg.svdvals(whole)
    best = float(values[rank:].square().sum().sqrt() / values.square().sum().sqrt())
    assert cut.left.shape == (rank, D_MODEL)
    assert error == pytest.approx(best, rel=1e-4)
    assert float((delta_matrix(cut) - whole).norm() / whole.norm()) == pytest.approx(best, rel=1e-3)
    assert cut.fact_rows is delta.fact_rows
    assert cut.residual is delta.residual


def test_truncation_to_all_ranks_changes_nothing() -> None:
    delta = delta_of(6)
    cut, error = truncate_delta(delta, 100)
    assert error < 1e-6
    torch.testing.assert_close(delta_matrix(cut), delta_matrix(delta), rtol=1e-4, atol=1e-6)
    assert len(cut.left) <= 6


def test_truncation_needs_the_facts_own_rows() -> None:
    delta = LayerDelta.from_solution(torch.zeros(4, D_MODEL), random_rows(4), residual=None, ridge=1.0)
    with pytest.raises(PatchError, match="own rows"):
        truncate_delta(delta, 2)
