"""A delta that grows by solutions, against the dense sum of the solutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moe_patch.methods.layer_edit import GrowingSolution, LayerEdit, LayerProblem, LayerSolution
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows, one_left_per_row, sort_rows
from moe_patch.solve.algebra import edit_kernel
from tests.tiny import tiny_base

EXPERTS, WIDTH, OUT = 4, 5, 3


def some_rows(facts: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    reached = torch.rand(EXPERTS, facts, generator=generator) < 0.6
    expert, fact = reached.nonzero(as_tuple=True)
    value = torch.randn(len(expert), WIDTH, generator=generator)
    return sort_rows(value, expert, fact, facts)


def some_solution(problem: LayerProblem, seed: int, per_row: bool) -> LayerSolution:
    """A random solution: how it was found does not matter for growing."""
    generator = torch.Generator().manual_seed(seed)
    size = len(problem.rows.value) if per_row else problem.rows.num_facts
    return LayerSolution(torch.randn(size, OUT, generator=generator), float(seed), per_row)


def dense(left: Tensor, rows: Rows) -> Tensor:
    """(E, d_m, d_k)."""
    total = torch.zeros(EXPERTS, left.shape[1], WIDTH)
    for row, (expert, fact) in enumerate(zip(rows.expert.tolist(), rows.fact.tolist(), strict=True)):
        total[expert] += torch.outer(left[fact], rows.value[row])
    return total


def dense_solution(problem: LayerProblem, solution: LayerSolution) -> Tensor:
    rows = one_left_per_row(problem.rows) if solution.per_row else problem.rows
    return dense(solution.left, rows)


def outputs(total: Tensor, rows: Rows) -> Tensor:
    """(T, d_m) what deltas (E, d_m, d_k) add for each fact."""
    added = torch.zeros(rows.num_facts, total.shape[1])
    for row, (expert, fact) in enumerate(zip(rows.expert.tolist(), rows.fact.tolist(), strict=True)):
        added[fact] += total[expert] @ rows.value[row]
    return added


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("protect", [False, True])
def test_the_delta_is_the_sum_of_the_solutions(per_row: bool, protect: bool) -> None:
    growing = GrowingSolution(7)
    total = torch.zeros(EXPERTS, OUT, WIDTH)
    asked: list[Tensor] = []
    known = 0
    for seed, facts in enumerate((3, 1, 2)):
        rows, residual = some_rows(facts, seed), torch.randn(facts, OUT)
        earlier = 0.1 * torch.randn(known, OUT) if protect else None
        batch = growing.batch(rows, residual, earlier)
        problem = growing.problem(batch)
        assert problem.layer == 7
        assert problem.rows.num_facts == (known + facts if protect else facts)
        expected = residual if earlier is None or not known else torch.cat([earlier, residual])
        torch.testing.assert_close(problem.residual, expected)
        solution = some_solution(problem, seed, per_row)
        growing.add(batch, solution)
        if earlier is not None and known:
            asked = [before + more for before, more in zip(asked, earlier, strict=True)]
        asked += list(residual + outputs(total, rows))  # the residual was measured with the rest on
        total = total + dense_solution(problem, solution)
        known += facts
    delta = growing.delta()
    torch.testing.assert_close(dense(delta.left, delta.rows), total)
    assert delta.residual is not None
    torch.testing.assert_close(delta.residual, torch.stack(asked))
    assert delta.fact_rows.num_facts == known
    assert (not delta.shares_rows) == per_row
    assert delta.ridge == 2.0


def doubled(rows: Rows) -> Rows:
    return replace(rows, value=2 * rows.value)


@pytest.mark.parametrize("protect", [False, True])
def test_right_rows_are_made_once_for_each_fact_and_stand_beside_its_own(protect: bool) -> None:
    made: list[int] = []

    def right(rows: Rows) -> Rows:
        made.append(rows.num_facts)
        return doubled(rows)

    growing = GrowingSolution(7, right)
    total = torch.zeros(EXPERTS, OUT, WIDTH)
    for seed, facts in enumerate((3, 2)):
        rows = some_rows(facts, seed)
        earlier = torch.zeros(sum(made), OUT) if protect else None
        batch = growing.batch(rows, torch.randn(facts, OUT), earlier)
        problem = growing.problem(batch)
        assert problem.right is not None
        torch.testing.assert_close(problem.right.value, 2 * problem.rows.value)
        torch.testing.assert_close(problem.kernel(), 2 * edit_kernel(problem.rows))
        solution = some_solution(problem, seed, False)
        growing.add(batch, solution)
        total = total + dense(solution.left, problem.right)
    assert made == [3, 2]
    torch.testing.assert_close(dense(growing.delta().left, growing.delta().rows), total)


def test_an_edit_is_live_between_add_and_off() -> None:
    base = tiny_base("qwen3_moe")
    layer = base.layer(1)
    ids = torch.arange(4, 12)[None]
    edit = LayerEdit(base, 1)
    rows = sort_rows(torch.randn(3, layer.d_key), torch.tensor([0, 2, 5]), torch.tensor([0, 0, 1]), 2)
    residual = torch.randn(2, layer.d_model)

    def hidden() -> Tensor:
        with torch.no_grad():
            states: Tensor = base.decoder(input_ids=ids).last_hidden_state
        return states

    before = hidden()
    solution = LayerSolution(torch.randn(2, layer.d_model), 1.0)
    edit.add(edit.batch(rows, residual, None), solution)
    live = hidden()
    assert not torch.allclose(live, before)
    edit.off()
    assert torch.equal(hidden(), before)
    edit.off()
    delta: LayerDelta = edit.delta()
    torch.testing.assert_close(delta.left, solution.left)
