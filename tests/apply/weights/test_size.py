"""The size of changes: exact norms, and a refusal of what is no edit of its expert any more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from moe_patch.apply import Mode, apply, own_weight
from moe_patch.apply.stack import Stack
from moe_patch.apply.weights.size import LARGEST_RATIO, EditSize, edit_sizes, largest_edit
from moe_patch.errors import OversizedEdit
from moe_patch.patch import Patch
from tests.tiny import dense_delta, tiny_base, tiny_patch


def scaled(patch: Patch, factor: float) -> Patch:
    """The patch with changes that are `factor` times as large."""
    layers = {layer: replace(delta, left=factor * delta.left) for layer, delta in patch.layers.items()}
    return replace(patch, layers=layers)


def test_norms_are_those_of_the_dense_changes_and_of_the_unpatched_experts() -> None:
    base = tiny_base("qwen3_moe")
    patch, other = tiny_patch(base, [0, 1]), tiny_patch(base, [0], seed=9)
    weights = {layer: base.layer(layer).down for layer in (0, 1)}
    expected = {
        (layer, expert): EditSize(
            layer,
            expert,
            float(dense_delta(delta, base.layer(layer))[expert].norm()),
            float(weights[layer](expert).norm()),
        )
        for layer, delta in patch.layers.items()
        for expert in delta.experts()
    }
    with apply(base, other):
        found = {(size.layer, size.expert): size for size in edit_sizes(patch, partial(own_weight, base))}
    assert found.keys() == expected.keys()
    for place, size in found.items():
        assert size.change == pytest.approx(expected[place].change, rel=1e-5)
        assert size.weight == pytest.approx(expected[place].weight, rel=1e-6)
    assert largest_edit(patch, partial(own_weight, base)) == max(found.values(), key=lambda size: size.ratio)


@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_a_patch_a_thousand_times_too_large_is_refused_unless_it_is_allowed(mode: Mode) -> None:
    base = tiny_base("qwen3_moe")
    patch, before = scaled(tiny_patch(base, [1]), 1000), base.layer(1).down(0).clone()
    with pytest.raises(OversizedEdit, match=f"layer 1, expert .* and more than {LARGEST_RATIO:g} times"):
        apply(base, patch, mode=mode)
    with pytest.raises(OversizedEdit):
        Stack(base, mode=mode).push(patch)
    assert torch.equal(base.layer(1).down(0), before)
    with apply(base, patch, mode=mode, allow_large=True):
        pass
    Stack(base, mode=mode, allow_large=True).push(patch)


def test_any_change_of_an_expert_of_zeros_is_too_large() -> None:
    assert EditSize(0, 0, 1e-9, 0.0).ratio == float("inf")
    assert EditSize(0, 0, 0.0, 0.0).ratio == 0.0
