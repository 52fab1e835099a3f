"""Batches one after the other: what protection does, and what happens to facts about one subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import moe_patch
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.methods import get_method
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows
from moe_patch.solve.algebra import edit_response
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import target_losses
from tests.margins import at_most
from tests.methods.builds import facts
from tests.taught import STRONG, edit, said, taught_base
from tests.tiny import tiny_base

ONE_SUBJECT = [edit("Ann", "{} eats"), edit("Bob", "{} is in"), edit("Ann", "{} is in")]


def build(base: Base, edits: Sequence[Fact], progress: Any = None, **options: Any) -> Patch:
    method = get_method("moeedit")
    settings = {"layers": (0,), "projection": False, "ridge": 1e-6, "ridge_relative": True, "targets": STRONG}
    return method.build(base, edits, method.options(**(settings | options)), progress)


def own(delta: LayerDelta, facts: int) -> Rows:
    """The rows of the first few facts."""
    rows = delta.fact_rows
    kept = rows.fact < facts
    return Rows(rows.value[kept], rows.expert[kept], rows.fact[kept], facts)


@pytest.mark.quality
@pytest.mark.parametrize("solver", ["exact", "bcd"])
def test_protected_facts_move_less_than_unprotected_ones(solver: str) -> None:
    base, edits = tiny_base("qwen3_moe"), facts(6)
    weak = {"targets": {"steps": 5, "learning_rate": 0.5}, "solver": solver, "passes": 300}
    first = build(base, edits[:3], **weak).layers[0]
    moved = []
    for protect in (True, False):
        both = build(base, edits, batch_size=3, protect_earlier=protect, **weak).layers[0]
        probe = own(both, 3)
        before = edit_response(first.left, first.rows, own(first, 3))
        after = edit_response(both.left, both.rows, probe)
        torch.testing.assert_close(probe.value, own(first, 3).value)
        moved.append(float((after - before).norm() / before.norm()))
    at_most("share of the movement that protection leaves", moved[0] / moved[1], 0.1)


@pytest.mark.parametrize("solver", ["exact", "bcd"])
@pytest.mark.parametrize("protect", [True, False])
def test_the_residual_is_what_the_whole_delta_was_asked_for(solver: str, protect: bool) -> None:
    base, edits = tiny_base("qwen3_moe"), facts(5)
    weak = {"targets": {"steps": 5, "learning_rate": 0.5}, "solver": solver, "passes": 300}
    delta = build(base, edits, layers=(1,), batch_size=2, protect_earlier=protect, **weak).layers[1]
    assert delta.residual is not None
    added = edit_response(delta.left, delta.rows, delta.fact_rows)
    kept = slice(0, 5) if protect else slice(4, 5)  # without protection, of the last batch alone
    torch.testing.assert_close(added[kept].float(), delta.residual[kept], atol=2e-2, rtol=2e-2)
    if not protect:
        assert not torch.allclose(added[:4].float(), delta.residual[:4], atol=0.1, rtol=0.1)


def test_one_batch_is_one_batch_whatever_its_size() -> None:
    base, edits = tiny_base("qwen3_moe"), facts(4)
    weak = {"targets": {"steps": 4, "learning_rate": 0.5}, "layers": (0, 1)}
    whole = build(base, edits, **weak)
    for options in ({"batch_size": 4}, {"batch_size": 9}, {"protect_earlier": False}):
        other = build(base, edits, **weak, **options)
        for layer in (0, 1):
            assert torch.equal(other.layers[layer].left, whole.layers[layer].left)


def test_small_passes_give_what_large_ones_give() -> None:
    base, edits = tiny_base("qwen3_moe"), facts(4)
    lefts = [
        build(
            base,
            edits,
            ridge=0.1,
            targets={"steps": 3, "contexts": 1, "context_tokens": 3, "facts_per_pass": size},
        )
        .layers[0]
        .left
        for size in (1, 64)
    ]
    torch.testing.assert_close(lefts[0], lefts[1], atol=1e-3, rtol=1e-3)


def test_progress_counts_facts() -> None:
    heard: list[tuple[str, int, int]] = []
    build(
        tiny_base("qwen3_moe"),
        facts(5),
        lambda *report: heard.append(report),
        batch_size=2,
        targets={"steps": 1},
    )
    assert [report[1:] for report in heard if report[0] == "facts edited"] == [(2, 5), (4, 5), (5, 5)]


def texts(edits: Sequence[Fact]) -> list[str]:
    return [fact.text for fact in edits]


def losses_with(patch: Patch, edits: Sequence[Fact]) -> list[float]:
    with moe_patch.apply(taught_base(), patch, mode="hook"):
        return target_losses(taught_base(), edits, TargetOptions())


def assert_well_said(patch: Patch, edits: Sequence[Fact]) -> None:
    at_most("largest loss of a new answer", max(losses_with(patch, edits)), 0.3)


@pytest.mark.quality
def test_facts_about_one_subject_hold_together_in_one_batch() -> None:
    patch = build(taught_base(), ONE_SUBJECT)
    with moe_patch.apply(taught_base(), patch):
        assert said(taught_base(), texts(ONE_SUBJECT)) == [fact.target_new for fact in ONE_SUBJECT]
    assert_well_said(patch, ONE_SUBJECT)
    names = [result["shared_with"] for result in patch.results]
    assert names == [[ONE_SUBJECT[2].id], [], [ONE_SUBJECT[0].id]]
    residual = patch.layers[0].residual
    assert residual is not None
    torch.testing.assert_close(residual[0], residual[2], atol=1e-4, rtol=1e-4)


@pytest.mark.quality
def test_a_later_fact_about_a_subject_keeps_the_earlier_one() -> None:
    edits = [ONE_SUBJECT[0], ONE_SUBJECT[1], ONE_SUBJECT[2], edit("Carl")]
    patch = build(taught_base(), edits, batch_size=2)
    with moe_patch.apply(taught_base(), patch):
        assert said(taught_base(), texts(edits)) == [fact.target_new for fact in edits]
    assert_well_said(patch, edits)
    names = [result["shared_with"] for result in patch.results]
    assert names == [[edits[2].id], [], [edits[0].id], []]
    delta = patch.layers[0]
    assert delta.residual is not None
    torch.testing.assert_close(delta.residual[0], delta.residual[2], atol=1e-3, rtol=1e-3)
    added = edit_response(delta.left, delta.rows, delta.fact_rows).float()
    torch.testing.assert_close(added, delta.residual, atol=1e-3, rtol=1e-3)


@pytest.mark.quality
def test_without_protection_earlier_facts_are_not_thought_of() -> None:
    edits = [ONE_SUBJECT[0], ONE_SUBJECT[2]]
    patch = build(taught_base(), edits, batch_size=1, protect_earlier=False)
    assert [result["shared_with"] for result in patch.results] == [[], []]
    with moe_patch.apply(taught_base(), patch):
        assert said(taught_base(), texts(edits))[1] == edits[1].target_new
    assert_well_said(patch, edits[1:])


def test_results_of_earlier_batches_are_those_of_the_finished_patch() -> None:
    edits = [edit("Ann"), edit("Bob"), edit("Carl")]
    patch = build(taught_base(), edits, batch_size=1)
    reported = [result["loss_edited"] for result in patch.results]
    assert reported == pytest.approx(losses_with(patch, edits), abs=1e-3)
