"""The algebra against brute force (dense normal equations and deltas), and what patches need of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows, one_left_per_row, select_rows, sort_rows
from moe_patch.solve import algebra

EXPERTS, D_MODEL, D_KEY = 5, 7, 6
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31 - 1)
counts = st.integers(1, 9)
ridges = st.floats(0.05, 5.0)


def random_rows(facts: int, seed: int, top_k: int = 2) -> Rows:
    """Rows of facts at `top_k` random experts each, in fp64 so that rounding does not matter."""
    generator = torch.Generator().manual_seed(seed)
    expert = torch.stack(
        [torch.randperm(EXPERTS, generator=generator)[:top_k] for _ in range(facts)]
    )  # (T, K)
    fact = torch.arange(facts)[:, None].expand(-1, top_k)
    value = torch.randn(facts * top_k, D_KEY, generator=generator, dtype=torch.float64)
    return sort_rows(value, expert.reshape(-1), fact.reshape(-1), facts)


def random_residual(facts: int, seed: int) -> Tensor:
    return torch.randn(facts, D_MODEL, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


def dense_psi(rows: Rows) -> Tensor:
    """Psi as (T, E * d_k): row t holds fact t's g k~ at every expert, zeros where it misses one."""
    psi = torch.zeros(rows.num_facts, EXPERTS, D_KEY, dtype=torch.float64)
    for value, expert, fact in zip(rows.value, rows.expert, rows.fact, strict=True):
        psi[fact, expert] += value
    return psi.reshape(rows.num_facts, -1)


def dense_delta(left: Tensor, rows: Rows) -> Tensor:
    """All experts' deltas side by side, (d_m, E * d_k)."""
    return torch.cat([algebra.expert_delta(left, rows, expert) for expert in range(EXPERTS)], dim=1)


def solve(rows: Rows, residual: Tensor, ridge: float) -> Tensor:
    return algebra.ridge_solve(algebra.edit_kernel(rows), residual, ridge)


def interference(left: Tensor, rows: Rows, other_left: Tensor, other_rows: Rows) -> algebra.Interference:
    """The interference of another edit with the facts of (left, rows)."""
    return algebra.compare_outputs(
        algebra.edit_response(left, rows, rows), algebra.edit_response(other_left, other_rows, rows)
    )


def primal_solution(psi: Tensor, residual: Tensor, ridge: float) -> Tensor:
    """The dense normal equations, (E * d_k) x (E * d_k): all experts' deltas side by side, (d_m, E * d_k)."""
    normal = psi.T @ psi + ridge * torch.eye(psi.shape[1], dtype=torch.float64)
    return torch.linalg.solve(normal, psi.T @ residual).T


@few
@given(facts=counts, seed=seeds, ridge=ridges)
def test_exact_solution_satisfies_the_dense_normal_equations(facts: int, seed: int, ridge: float) -> None:
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    expected = primal_solution(dense_psi(rows), residual, ridge)
    torch.testing.assert_close(
        dense_delta(solve(rows, residual, ridge), rows), expected, rtol=1e-8, atol=1e-9
    )


@few
@given(facts=counts, other=counts, seed=seeds)
def test_kernel_and_response_equal_their_dense_forms(facts: int, other: int, seed: int) -> None:
    rows, probe = random_rows(facts, seed), random_rows(other, seed + 7)
    left = random_residual(facts, seed)
    torch.testing.assert_close(algebra.edit_kernel(rows, probe), dense_psi(rows) @ dense_psi(probe).T)
    torch.testing.assert_close(
        algebra.edit_response(left, rows, probe), dense_psi(probe) @ dense_delta(left, rows).T
    )


@few
@given(facts=counts, seed=seeds, ridge=ridges)
def test_objective_equals_its_dense_form_and_is_least_at_the_solution(
    facts: int, seed: int, ridge: float
) -> None:
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    left = solve(rows, residual, ridge)
    delta = dense_delta(left, rows)
    dense = (residual - dense_psi(rows) @ delta.T).square().sum() + ridge * delta.square().sum()
    least = algebra.edit_objective(left, rows, residual, ridge)
    assert least == pytest.approx(float(dense), rel=1e-9)
    elsewhere = left + 0.1 * random_residual(facts, seed + 3)
    assert algebra.edit_objective(elsewhere, rows, residual, ridge) > least


def primal_block_descent(rows: Rows, residual: Tensor, ridge: float, order: list[list[int]]) -> list[Tensor]:
    """The published updates, each from scratch on dense matrices: deltas (E, d_m, d_k) after each pass."""
    psi = dense_psi(rows).reshape(rows.num_facts, EXPERTS, D_KEY)
    delta = torch.zeros(EXPERTS, D_MODEL, D_KEY, dtype=torch.float64)
    iterates = []
    for experts in order:
        for j in experts:
            others = [i for i in range(EXPERTS) if i != j]
            left_over = residual - torch.einsum("tik,imk->tm", psi[:, others], delta[others])
            normal = psi[:, j].T @ psi[:, j] + ridge * torch.eye(D_KEY, dtype=torch.float64)
            delta[j] = torch.linalg.solve(normal, psi[:, j].T @ left_over).T
        iterates.append(delta.clone())
    return iterates


@few
@given(facts=counts, seed=seeds, ridge=ridges)
def test_block_descent_makes_the_published_iterates(facts: int, seed: int, ridge: float) -> None:
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    reached, generator = rows.experts(), torch.Generator().manual_seed(seed)
    order = [[reached[i] for i in torch.randperm(len(reached), generator=generator)] for _ in range(3)]
    published = primal_block_descent(rows, residual, ridge, order)
    for passes, expected in enumerate(published, start=1):
        generator.manual_seed(seed)
        result = algebra.block_coordinate_descent(rows, residual, ridge, passes=passes, generator=generator)
        found = dense_delta(result.left, one_left_per_row(rows))
        torch.testing.assert_close(found, torch.cat(list(expected), dim=1), rtol=1e-8, atol=1e-9)


@few
@given(facts=counts, seed=seeds, ridge=st.floats(0.5, 5.0))
def test_block_descent_falls_monotonically_to_the_exact_objective(
    facts: int, seed: int, ridge: float
) -> None:
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    result = algebra.block_coordinate_descent(
        rows, residual, ridge, passes=200, generator=torch.Generator().manual_seed(seed)
    )
    exact = algebra.edit_objective(solve(rows, residual, ridge), rows, residual, ridge)
    assert len(result.objectives) == 201
    assert result.objectives[0] == pytest.approx(float(residual.square().sum()))
    assert all(
        after <= before * (1 + 1e-12)
        for before, after in zip(result.objectives, result.objectives[1:], strict=False)
    )
    assert result.objectives[-1] == pytest.approx(exact, rel=1e-6)
    own = one_left_per_row(rows)
    final = algebra.edit_objective(result.left, own, residual, ridge, keys=rows)
    assert final == pytest.approx(result.objectives[-1], rel=1e-9)


@few
@given(facts=counts, seed=seeds, rank=st.integers(1, D_KEY - 1))
def test_projected_edits_leave_preserved_keys_unmoved(facts: int, seed: int, rank: int) -> None:
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(EXPERTS, D_KEY, rank, generator=generator, dtype=torch.float64)).Q
    used = basis[rows.expert]  # (nnz, d_k, r)
    value = rows.value - (used @ (used.mT @ rows.value[..., None]))[..., 0]
    projected = Rows(value, rows.expert, rows.fact, rows.num_facts)
    left = solve(projected, residual, 1e-3)
    for expert in projected.experts():
        preserved = basis[expert] @ torch.randn(
            rank, 20, generator=generator, dtype=torch.float64
        )  # (d_k, 20)
        delta = algebra.expert_delta(left, projected, expert)
        assert delta.norm() > 1e-3
        assert (delta @ preserved).norm() <= 1e-6 * delta.norm() * preserved.norm()


@few
@given(facts=st.integers(2, 9), seed=seeds, ridge=ridges)
def test_dropping_facts_equals_never_having_built_them(facts: int, seed: int, ridge: float) -> None:
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    kept = torch.randperm(facts, generator=torch.Generator().manual_seed(seed))[: facts // 2]
    remaining = select_rows(rows, kept)
    dropped = solve(remaining, residual[kept], ridge)
    expected = primal_solution(dense_psi(rows)[kept], residual[kept], ridge)
    torch.testing.assert_close(dense_delta(dropped, remaining), expected, rtol=1e-8, atol=1e-9)


@few
@given(facts=counts, other=counts, seed=seeds, ridge=ridges)
def test_joint_solution_equals_building_together(facts: int, other: int, seed: int, ridge: float) -> None:
    together, residual = random_rows(facts + other, seed), random_residual(facts + other, seed)
    parts = [
        (select_rows(together, chosen), residual[chosen])
        for chosen in (torch.arange(facts), torch.arange(facts, facts + other))
    ]
    left, joined = algebra.solve_jointly(parts, ridge)
    torch.testing.assert_close(joined.value, together.value)
    torch.testing.assert_close(left, solve(together, residual, ridge))


@few
@given(facts=counts, other=counts, seed=seeds, ridge=ridges)
def test_interference_equals_dense_crosstalk(facts: int, other: int, seed: int, ridge: float) -> None:
    rows, other_rows = random_rows(facts, seed), random_rows(other, seed + 5)
    left = solve(rows, random_residual(facts, seed), ridge)
    other_left = solve(other_rows, random_residual(other, seed + 5), ridge)
    found = interference(left, rows, other_left, other_rows)
    crosstalk = dense_psi(rows) @ dense_delta(other_left, other_rows).T
    own = dense_psi(rows) @ dense_delta(left, rows).T
    torch.testing.assert_close(found.crosstalk, crosstalk)
    torch.testing.assert_close(found.share, crosstalk.norm(dim=1) / own.norm(dim=1))
    torch.testing.assert_close(
        found.along, (crosstalk * own).sum(1) / own.square().sum(1), rtol=1e-6, atol=1e-9
    )


def test_interference_of_an_edit_with_itself_and_its_opposite() -> None:
    rows, left = random_rows(4, 0), random_residual(4, 0)
    twice = interference(left, rows, left, rows)
    torch.testing.assert_close(twice.along, torch.ones(4, dtype=torch.float64))
    undone = interference(left, rows, -left, rows)
    torch.testing.assert_close(undone.along, -torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(undone.share, torch.ones(4, dtype=torch.float64))


def test_rows_are_found_by_expert() -> None:
    rows = random_rows(6, 2)
    for expert in range(EXPERTS):
        value, fact = rows.of(expert)
        assert fact.tolist() == sorted(rows.fact[rows.expert == expert].tolist())
        torch.testing.assert_close(value, rows.value[rows.expert == expert])
    assert rows.experts() == sorted(set(rows.expert.tolist()))
    assert [expert for expert, _ in rows.blocks()] == rows.experts()
    assert len(rows.of(EXPERTS)[0]) == 0


def test_no_rows_at_all_is_an_edit_of_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    rows = sort_rows(torch.zeros(0, D_KEY), empty, empty, 3)
    left = solve(rows, torch.ones(3, D_MODEL), 1.0)
    assert rows.experts() == []
    assert not algebra.edit_response(left, rows, random_rows(2, 0)).any()


def test_solution_has_the_residuals_dtype_and_fp64_accuracy() -> None:
    rows, residual = random_rows(5, 3), random_residual(5, 3)
    single = Rows(rows.value.float(), rows.expert, rows.fact, 5)
    left = solve(single, residual.float(), 1e-6)
    assert left.dtype is torch.float32
    again = algebra.edit_response(left.double(), single, single) + 1e-6 * left.double()
    torch.testing.assert_close(again, residual.float().double(), rtol=1e-4, atol=1e-4)


def test_lambda_is_absolute_or_a_share_of_the_mean_diagonal() -> None:
    kernel = torch.diag(torch.tensor([1.0, 3.0]))
    assert algebra.ridge_value(kernel, 0.5, relative=False) == 0.5
    assert algebra.ridge_value(kernel, 0.5, relative=True) == 1.0
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(SolveError, match="must be positive"):
            algebra.ridge_value(kernel, bad, relative=False)
    with pytest.raises(SolveError, match="weaken the projection"):
        algebra.ridge_value(torch.zeros(2, 2), 0.5, relative=True)


@few
@given(counts, seeds, ridges, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_relative_lambda_means_the_same_at_any_scale(
    facts: int, seed: int, ridge: float, keys: float, stream: float
) -> None:
    """Keys that are longer, and weights that are smaller for it, are the same model."""
    rows, residual = random_rows(facts, seed), random_residual(facts, seed)
    scaled = Rows(keys * rows.value, rows.expert, rows.fact, facts)

    def added(own: Rows, wanted: Tensor) -> Tensor:
        kernel = algebra.edit_kernel(own)
        left = algebra.ridge_solve(kernel, wanted, algebra.ridge_value(kernel, ridge, relative=True))
        return algebra.edit_response(left, own, own)

    torch.testing.assert_close(added(scaled, stream * residual) / stream, added(rows, residual))


@pytest.mark.parametrize(
    ("value", "expert", "fact", "message"),
    [
        (torch.ones(2, 3), [0], [0, 1], "rows need"),
        (torch.ones(2, 3), [0, 0], [0, 2], "outside"),
        (torch.ones(2, 3), [0, 0], [1, 1], "two rows at one expert"),
        (torch.ones(2, 3), [1, 0], [0, 1], "out of order"),
    ],
)
def test_malformed_rows_are_refused(value: Tensor, expert: list[int], fact: list[int], message: str) -> None:
    with pytest.raises(SolveError, match=message):
        Rows(value, torch.tensor(expert), torch.tensor(fact), 2)


def test_systems_that_cannot_be_solved_are_refused() -> None:
    with pytest.raises(SolveError, match="one row per fact"):
        algebra.ridge_solve(torch.eye(2), torch.ones(3, 4), 1.0)
    with pytest.raises(SolveError, match="not positive definite"):
        algebra.ridge_solve(torch.full((2, 2), -1.0), torch.ones(2, 4), 0.5)
    with pytest.raises(SolveError, match="not positive definite"):
        algebra.ridge_solve(torch.full((2, 2), float("nan")), torch.ones(2, 4), 0.5)
    with pytest.raises(SolveError, match="nothing to solve"):
        algebra.solve_jointly([], 1.0)
    with pytest.raises(SolveError, match="twice"):
        select_rows(random_rows(3, 0), torch.tensor([1, 1]))
    with pytest.raises(SolveError, match="outside"):
        select_rows(random_rows(3, 0), torch.tensor([3]))
    with pytest.raises(SolveError, match="different layers"):
        algebra.edit_kernel(
            random_rows(3, 0), Rows(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), 1)
        )
    with pytest.raises(SolveError, match="do not fit"):
        algebra.block_coordinate_descent(
            random_rows(3, 0), torch.ones(2, 4), 1.0, passes=1, generator=torch.Generator()
        )
