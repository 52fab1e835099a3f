"""The rows of facts, against loops over tokens and experts."""

from __future__ import annotations

import torch

from moe_patch.base.capture import ExpertCall
from moe_patch.base.keys import first_tokens, key_rows, measure_keys, project_rows
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.solve.nullspace import NullSpace
from tests.methods.builds import facts
from tests.tiny import tiny_base

EXPERTS, SLOTS, WIDTH, FACTS, PROMPTS = 5, 2, 3, 4, 3


def some_call() -> ExpertCall:
    """Random keys of a dozen tokens; one slot of the third token reached no expert."""
    generator = torch.Generator().manual_seed(0)
    tokens = FACTS * PROMPTS
    experts = torch.stack([torch.randperm(EXPERTS, generator=generator)[:SLOTS] for _ in range(tokens)])
    experts[2, 1] = EXPERTS
    keys = torch.randn(tokens, SLOTS, WIDTH, generator=generator)
    return ExpertCall(keys, torch.rand(tokens, SLOTS, generator=generator), experts)


def dense(call: ExpertCall) -> torch.Tensor:
    """The mean of g k over each fact's prompts, (E, T, d_k); zero if none of them reaches the expert."""
    assert call.keys is not None
    mean = torch.zeros(EXPERTS + 1, FACTS, WIDTH)
    for token in range(FACTS * PROMPTS):
        for slot in range(SLOTS):
            gated = call.gates[token, slot] * call.keys[token, slot]
            mean[call.experts[token, slot], token // PROMPTS] += gated / PROMPTS
    return mean[:EXPERTS]


def test_rows_are_means_over_a_facts_prompts() -> None:
    call = some_call()
    rows = key_rows(call, EXPERTS, FACTS, None)
    found = torch.zeros(EXPERTS, FACTS, WIDTH)
    found[rows.expert, rows.fact] = rows.value
    torch.testing.assert_close(found, dense(call))
    assert len(rows.value) == int((dense(call).abs().sum(-1) > 0).sum())
    assert rows.num_facts == FACTS


def test_projected_rows_keep_nothing_of_protected_experts() -> None:
    call = some_call()
    whole, none = torch.eye(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, 0, dtype=torch.float64)
    line = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    basis = {0: whole, 1: none, 2: line, 3: whole, 4: none}
    space = NullSpace(0, basis, torch.ones(EXPERTS, dtype=torch.long), (), "by hand")
    rows = key_rows(call, EXPERTS, FACTS, space)
    found = torch.zeros(EXPERTS, FACTS, WIDTH)
    found[rows.expert, rows.fact] = rows.value
    expected = dense(call)
    expected[[0, 3]] = 0.0
    expected[2, :, 0] = 0.0
    torch.testing.assert_close(found, expected)
    assert not {0, 3} & set(rows.experts())
    again = project_rows(rows, space)
    torch.testing.assert_close(again.value, rows.value)


def test_the_first_tokens_of_a_call() -> None:
    call = some_call()
    first = first_tokens(call, 5)
    assert first.keys is not None
    assert call.keys is not None
    assert torch.equal(first.keys, call.keys[:5])
    assert torch.equal(first.experts, call.experts[:5])


def test_padding_and_passes_change_nothing() -> None:
    base = tiny_base("qwen3_moe")
    prompts = [
        encode_fact(base.reader, fact, PromptStyle(), answer=False, prefix="x" * i)
        for i, fact in enumerate(facts(5))
    ]
    calls, present = measure_keys(base, prompts, [0, 1], 2, per_pass=2)
    for number, prompt in enumerate(prompts):
        alone, value = measure_keys(base, [prompt], [1, 0], 2, per_pass=1)
        torch.testing.assert_close(present[number : number + 1], value, atol=1e-4, rtol=1e-4)
        for layer in (0, 1):
            found = key_rows(first_tokens(alone[layer], 1), 8, 1, None)
            one = ExpertCall(
                *(getattr(calls[layer], name)[number : number + 1] for name in ("keys", "gates", "experts"))
            )
            rows = key_rows(one, 8, 1, None)
            assert torch.equal(rows.expert, found.expert)
            torch.testing.assert_close(rows.value, found.value, atol=1e-4, rtol=1e-4)
    assert calls.keys() == {0, 1}
