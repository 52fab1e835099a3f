"""The module beside the block, and its routers, against the formulas written out for one prompt at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moe_patch.bypass import LEAVE_ALONE, Bypass
from tests.bypass.bypasses import WIDTH, config, random_bypass


def test_an_untrained_bypass_adds_nothing_bit_for_bit() -> None:
    bypass = Bypass(config())
    output, x = torch.randn(4, 7, WIDTH), torch.randn(4, 7, WIDTH)
    assert torch.equal(output + bypass(x, torch.tensor([0, 1, 2, LEAVE_ALONE])), output)


def test_each_row_gets_its_expert_and_a_prompt_left_alone_gets_exactly_nothing() -> None:
    bypass = random_bypass()
    x, route = torch.randn(4, 7, WIDTH), torch.tensor([2, LEAVE_ALONE, 0, 2])
    added = bypass(x, route)
    experts = bypass.experts
    for row, expert in ((0, 2), (2, 0), (3, 2)):
        inner = F.silu(x[row] @ experts.gate[expert].T) * (x[row] @ experts.up[expert].T)
        torch.testing.assert_close(added[row], inner @ experts.down[expert].T)
    assert not added[1].any()


def test_tokens_in_one_row_are_routed_like_rows_of_tokens() -> None:
    bypass, x, route = random_bypass(), torch.randn(3, 5, WIDTH), torch.tensor([1, LEAVE_ALONE, 0])
    flat = bypass(x.flatten(0, 1), route.repeat_interleave(5))
    torch.testing.assert_close(flat.view_as(x), bypass(x, route))


def test_lambda_scales_what_is_added() -> None:
    one, three = random_bypass(), random_bypass()
    three.config = config(scale=3.0)
    x, route = torch.randn(2, 5, WIDTH), torch.tensor([1, 0])
    torch.testing.assert_close(three(x, route), 3 * one(x, route))


def test_dual_attention_is_the_published_formula() -> None:
    bypass = random_bypass(alpha=0.7, beta=1.3)
    router, states = bypass.router, torch.randn(6, WIDTH)
    e = states / states.square().mean(1, keepdim=True).sqrt()
    adapted = e + F.linear(F.silu(router.down(e)), router.up.weight, router.up.bias)
    there = (e @ adapted.T / WIDTH**0.5).softmax(1) @ adapted
    back = (adapted @ e.T / WIDTH**0.5).softmax(1) @ e
    expected = router.output((0.7 * there + 1.3 * back).mean(0))
    found = router(states[None], torch.ones(1, 6, dtype=torch.bool))[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["dual-attention", "mlp"])
def test_what_is_not_the_prompt_has_no_say(kind) -> None:
    bypass = random_bypass(router=kind)
    states, prompt = torch.randn(3, 8, WIDTH), torch.ones(3, 8, dtype=torch.bool)
    prompt[0, :3], prompt[1, 6:] = False, False
    alone = [bypass.router(states[i : i + 1, row], row[row][None])[0] for i, row in enumerate(prompt)]
    states[~prompt] = 100.0
    torch.testing.assert_close(bypass.router(states, prompt), torch.stack(alone))


def test_the_scope_gate_is_one_more_route() -> None:
    gated, open_ = random_bypass(), random_bypass(scope_gate=False)
    states, prompt = torch.randn(200, 4, WIDTH), torch.ones(200, 4, dtype=torch.bool)
    assert set(gated.route(states, prompt).tolist()) == {LEAVE_ALONE, 0, 1, 2}
    assert set(open_.route(states, prompt).tolist()) == {0, 1, 2}


def test_experts_run_in_the_bases_dtype_and_the_router_in_fp32() -> None:
    bypass = random_bypass().keep_precision(torch.bfloat16, torch.device("cpu"))
    states, prompt = torch.randn(2, 5, WIDTH).bfloat16(), torch.ones(2, 5, dtype=torch.bool)
    assert bypass.router(states, prompt).dtype == torch.float32
    added = bypass(states, torch.tensor([0, 1]))
    assert added.dtype == torch.bfloat16
    torch.testing.assert_close(
        added.float(), random_bypass()(states.float(), torch.tensor([0, 1])), atol=0.05, rtol=0.05
    )
