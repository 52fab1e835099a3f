"""Dense changes on a model: merged, hooked, rounded and taken off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.apply.weights.size import change_norms
from moe_patch.apply.weights.summed import patched_weight
from moe_patch.base.experts import attach_matrices
from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.errors import CaptureError, PatchError
from moe_patch.patch import Patch
from moe_patch.stack import combine_patches, drop_facts
from tests.stack.patches import stacked
from tests.tiny import dense_delta, tiny_base, tiny_batch, tiny_patch, tiny_whole_patch


@pytest.fixture(params=["qwen3_moe", "gpt_oss"])
def base(request: pytest.FixtureRequest) -> Base:
    return tiny_base(request.param)


def logits(base: Base) -> Tensor:
    ids, mask = tiny_batch()
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


def downs(layer: MoELayer) -> Tensor:
    """A copy of all down projections, (E, d_m, d_k)."""
    return torch.stack([layer.down(expert) for expert in range(layer.num_experts)])


def test_merging_adds_the_matrices_and_removal_leaves_no_trace(base: Base) -> None:
    before = {index: downs(layer) for index, layer in base.layers.items()}
    patch = tiny_whole_patch(base)
    with apply(base, patch):
        for index, layer in base.layers.items():
            expected = before[index] + dense_delta(patch.layers[index], layer)
            torch.testing.assert_close(downs(layer), expected, atol=1e-6, rtol=1e-5)
    for index, layer in base.layers.items():
        assert torch.equal(downs(layer), before[index])


def test_hooks_and_merges_compute_the_same(base: Base) -> None:
    patch, plain = tiny_whole_patch(base), logits(base)
    with apply(base, patch, mode="merge"):
        merged = logits(base)
    with apply(base, patch, mode="hook"):
        hooked = logits(base)
    assert (merged - plain).abs().max() > 0.05
    torch.testing.assert_close(hooked, merged, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_the_sum_of_a_stack_is_what_all_of_it_does(base: Base, mode: Any) -> None:
    patches = [tiny_whole_patch(base, [0, 1], seed=1), tiny_patch(base, [1, 2], seed=5)]
    distinct = [patches[0], _with_other_facts(patches[1])]
    with apply(base, distinct[0], mode=mode), apply(base, distinct[1], mode=mode):
        expected = logits(base)
    combined = combine_patches(stacked(*distinct), "add").patch
    with apply(base, combined, mode=mode):
        torch.testing.assert_close(logits(base), expected, atol=2e-5, rtol=2e-5)
    assert combined.layers[1].fact_rows.num_facts == len(combined.facts) == 8


def test_joint_solving_and_dropping_say_why_not(base: Base) -> None:
    patch = tiny_whole_patch(base, [1])
    with pytest.raises(PatchError, match=r"layer 1 holds dense changes.*combine it with others by adding"):
        combine_patches(stacked(patch), "solve")
    with pytest.raises(PatchError, match="no fact can be taken out"):
        drop_facts(patch, {"fact-1"})


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_half_precision_loses_some_and_says_how_much(base: Base, rounding: Any) -> None:
    base.model.to(torch.bfloat16)
    with apply(base, tiny_whole_patch(base, [1]), rounding=rounding) as applied:
        assert 0 < applied.lost["median"] <= applied.lost["worst"] < 0.5


def test_some_columns_get_their_columns(base: Base) -> None:
    layer, delta = base.layer(1), tiny_whole_patch(base, [1]).layers[1]
    whole = patched_weight(layer.down(1), 1, [delta])
    some = slice(3, 9)
    torch.testing.assert_close(
        patched_weight(layer.down(1)[:, some], 1, [delta], columns=some), whole[:, some]
    )


def test_norms_are_of_the_whole_change(base: Base) -> None:
    patch = tiny_whole_patch(base, [1])
    whole = dense_delta(patch.layers[1], base.layer(1))
    for (_, expert), norm in change_norms(patch).items():
        assert norm == pytest.approx(float(whole[expert].norm()), rel=1e-4)


@pytest.mark.parametrize("bad", [{0: torch.zeros(3, 3)}, {99: torch.zeros(32, 16)}])
def test_matrices_that_do_not_fit_are_refused(base: Base, bad: dict[int, Tensor]) -> None:
    with pytest.raises(CaptureError, match="does not fit"):
        attach_matrices(base.layer(0), bad)


def _with_other_facts(patch: Patch) -> Patch:
    facts = tuple(replace(f, id=f"{f.id}-b", subject=f"{f.subject} B") for f in patch.facts)
    return replace(patch, facts=facts)
