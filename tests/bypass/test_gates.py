"""Merging experts: gates by probability, against sums written out, merged weights, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_patch.bypass import Bypass, expert_gates, is_acting
from moe_patch.bypass.gates import scoped_gates
from tests.bypass.bypasses import WIDTH, config, random_bypass

PROMPT = torch.ones(5, 4, dtype=torch.bool)


def output_of(bypass: Bypass, x: Tensor, expert: int) -> Tensor:
    experts = bypass.experts
    inner = F.silu(x @ experts.gate[expert].T) * (x @ experts.up[expert].T)
    return inner @ experts.down[expert].T


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-8, 8), min_size=4, max_size=4, unique=True), st.integers(1, 4))
def test_the_largest_probabilities_stay_as_they_are_and_the_others_are_zero(
    logits: list[int], top_k: int
) -> None:
    chosen = config(experts=4, merge="weighted", top_k=top_k, scope_gate=False)
    found = expert_gates(torch.tensor([logits], dtype=torch.float64), chosen)[0].tolist()
    whole = sum(math.exp(one) for one in logits)
    taken = sorted(range(4), key=lambda i: -logits[i])[:top_k]
    wanted = [math.exp(logits[i]) / whole if i in taken else 0.0 for i in range(4)]
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("merge", ["weighted", "soft"])
def test_the_scope_gate_says_whether_and_has_no_part_in_how_much(merge: str) -> None:
    gated = config(merge=merge)
    logits = torch.tensor([[1.0, 2.0, 0.0, 1.5], [1.0, 2.0, 0.0, 2.5]])
    found = scoped_gates(logits, gated)
    torch.testing.assert_close(found[0], expert_gates(logits, gated)[0])
    torch.testing.assert_close(found[0].max(), logits[0, :3].softmax(0).max())
    assert not found[1].any()
    assert is_acting(found).tolist() == [True, False]


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_weighted_outputs_are_the_published_sum(top_k: int) -> None:
    bypass, x = random_bypass(merge="weighted", top_k=top_k, scope_gate=False), torch.randn(5, 4, WIDTH)
    gates, likely = bypass.route(x, PROMPT), bypass.router(x, PROMPT).softmax(-1)
    assert (gates != 0).sum(1).tolist() == [top_k] * 5
    wanted = torch.zeros_like(x)
    for row in range(5):
        for expert in likely[row].argsort(descending=True)[:top_k].tolist():
            wanted[row] += likely[row, expert] * output_of(bypass, x[row], expert)
    torch.testing.assert_close(bypass(x, gates), wanted)


def test_soft_merging_runs_one_expert_with_the_mean_of_all_weights() -> None:
    bypass, x = random_bypass(merge="soft", scope_gate=False), torch.randn(5, 4, WIDTH)
    gates = bypass.route(x, PROMPT)
    torch.testing.assert_close(gates, bypass.router(x, PROMPT).softmax(-1))
    for row, share in enumerate(gates):
        gate, up, down = (
            torch.einsum("n,npq->pq", share, weight)
            for weight in (bypass.experts.gate, bypass.experts.up, bypass.experts.down)
        )
        wanted = (F.silu(x[row] @ gate.T) * (x[row] @ up.T)) @ down.T
        torch.testing.assert_close(bypass(x, gates)[row], wanted)


@pytest.mark.parametrize("merge", ["weighted", "soft"])
def test_tokens_in_one_row_are_merged_like_rows_of_tokens_and_lambda_scales_them(merge: str) -> None:
    bypass, x = random_bypass(merge=merge), torch.randn(5, 4, WIDTH)
    gates = bypass.route(x, PROMPT)
    flat = bypass(x.flatten(0, 1), gates.repeat_interleave(4, dim=0))
    torch.testing.assert_close(flat.view_as(x), bypass(x, gates))
    bypass.config = config(merge=merge, scale=3.0)
    torch.testing.assert_close(bypass(x, gates).view_as(flat), 3 * flat)
    assert bypass.keep_precision(torch.bfloat16, x.device)(x.bfloat16(), gates).dtype == torch.bfloat16


@pytest.mark.parametrize(("merge", "top_k"), [("weighted", 1), ("weighted", 2), ("soft", 1)])
def test_the_router_and_the_experts_learn_through_the_gates(merge: str, top_k: int) -> None:
    bypass = random_bypass(merge=merge, top_k=top_k, scope_gate=False, router="published")
    bypass.experts.double()
    chosen, x = bypass.config, torch.randn(5, 4, WIDTH, dtype=torch.float64)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scores: bypass(x, expert_gates(scores, chosen)), (logits,))
    bypass.requires_grad_(True)
    bypass(x, expert_gates(bypass.router(x, PROMPT), chosen)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in bypass.parameters())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"top_k": 4, "merge": "weighted"}, "there are 3 experts"),
        ({"top_k": 2}, "likeliest expert alone"),
        ({"top_k": 2, "merge": "soft"}, "takes all experts"),
        ({"attention_width": 4}, "published router"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        config(**changes)
