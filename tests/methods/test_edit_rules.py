"""How layers share what is missing, and which experts are edited, against sums written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.base.capture import ExpertCall
from moe_patch.base.keys import measure_keys
from moe_patch.data.prompts import encode_fact
from moe_patch.methods.edit_rules import EditRules, ResidualShare, strongest_experts
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from tests.methods.builds import build, facts
from tests.tiny import tiny_base

TARGETS = TargetOptions(steps=3, learning_rate=0.5)


@pytest.mark.parametrize(
    ("share", "expected"),
    [("layers", [3, 2, 1]), ("distance", [6, 4, 1]), ("root", [math.sqrt(3), math.sqrt(2), 1])],
)
def test_a_layer_is_asked_for_its_share(share: ResidualShare, expected: list[float]) -> None:
    layers = [2, 4, 7]
    rules = EditRules(residual_share=share)
    assert [rules.divisor(layers, layer) for layer in layers] == expected


@given(st.lists(st.integers(0, 60), min_size=1, unique=True), st.integers(0, 40))
def test_shares_by_distance_and_by_count_are_one_where_layers_follow_one_another(
    lengths: list[int], first: int
) -> None:
    layers = list(range(first, first + len(lengths)))
    by_count, by_distance = EditRules(), EditRules(residual_share="distance")
    assert all(by_count.divisor(layers, one) == by_distance.divisor(layers, one) for one in layers)


@pytest.mark.parametrize("method", ["moeedit", "mote", "woodbury-spread"])
@pytest.mark.parametrize("share", ["layers", "distance", "root"])
def test_patches_hold_the_share_that_was_asked_for(method: str, share: ResidualShare) -> None:
    base, layers = tiny_base("qwen3_moe"), (0, 2)
    own: dict[str, Any] = {"ranks": (1.0, 1.0, 1.0)} if method == "mote" else {}
    patch = build(method, base, layers=layers, targets=TARGETS, residual_share=share, **own)
    divisor = {"layers": 2.0, "distance": 3.0, "root": math.sqrt(2.0)}[share]
    if method != "moeedit":
        last, below = patch.layers[2], patch.layers[0]
        if method == "woodbury-spread":
            torch.testing.assert_close(below.left, last.left / divisor)
        else:
            torch.testing.assert_close(below.left.norm() * divisor, last.left.norm(), rtol=0.2, atol=0.0)
        return
    found = find_targets(base, facts(), 2, TARGETS)
    asked = patch.layers[0].residual
    assert asked is not None
    torch.testing.assert_close(asked, (found.value - found.start) / divisor, atol=1e-5, rtol=1e-4)


def test_the_residual_can_be_taken_at_the_layer_itself() -> None:
    """As the public code of MoEEdit does it: z* of the last layer minus the stream after this one."""
    base = tiny_base("qwen3_moe")
    patch = build("moeedit", base, layers=(0, 2), targets=TARGETS, residual_at="own", residual_share="root")
    prompts = [encode_fact(base.reader, fact, TARGETS.style, answer=False) for fact in facts()]
    _, own = measure_keys(base, prompts, [0], 0, 8)  # (T, d_m)
    value = find_targets(base, facts(), 2, TARGETS).value
    asked = patch.layers[0].residual
    assert asked is not None
    torch.testing.assert_close(asked, (value - own) / math.sqrt(2.0), atol=1e-5, rtol=1e-4)


def call() -> ExpertCall:
    gates = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.0, 0.6, 0.1]])  # (3, 3)
    experts = torch.tensor([[4, 0, 2], [1, 3, 0], [5, 2, 4]])  # the slot of 5 reached none
    return ExpertCall(torch.randn(3, 3, 4), gates, experts)


def test_the_experts_with_the_largest_gates_stay() -> None:
    one, two = (strongest_experts(call(), count, 5) for count in (1, 2))
    assert one.experts.tolist() == [[5, 0, 5], [1, 5, 5], [5, 2, 5]]
    assert two.experts.tolist() == [[5, 0, 2], [1, 3, 5], [5, 2, 4]]
    assert torch.equal(two.gates[0], torch.tensor([0.0, 0.5, 0.3]))
    assert torch.equal(strongest_experts(call(), 9, 5).experts, call().experts)


@pytest.mark.parametrize("method", ["moeedit", "moeedit-penalty", "mote", "bcd-spread"])
def test_a_fact_edits_as_many_experts_as_it_may(method: str) -> None:
    base = tiny_base("qwen3_moe")
    every, two = (build(method, base, experts_per_fact=count).layers[0].fact_rows for count in (None, 2))
    assert torch.bincount(every.fact).tolist() == [3, 3, 3, 3]  # top-3
    assert torch.bincount(two.fact).tolist() == [2, 2, 2, 2]
    assert build("moeedit", base, experts_per_fact=2).hyperparameters["experts_per_fact"] == 2
