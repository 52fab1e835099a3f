"""A bypass on live models: no effect when untrained, one choice per generation, the same in every mode."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.apply.stack import Stack
from moe_patch.base.opening import wrap
from moe_patch.bypass import LEAVE_ALONE, Bypass, prompt_lengths, read_bypass
from moe_patch.errors import BypassError, ModelError, PatchError, WrongBase
from moe_patch.versions import cache_name, returned_cache
from tests.apply.bypassed import base_of, generated, left_padded, logits_of, one_by_one, patch_of, prompts
from tests.bypass.bypasses import config, random_bypass
from tests.tiny import tiny_batch, tiny_model, tiny_patch, tiny_tokenizer

KINDS: list[dict[str, Any]] = [
    {},
    {"tokens": "last"},
    {"router_states": "final"},
    {"router_states": "final", "tokens": "last", "layer": 0},
]
MERGED: list[dict[str, Any]] = [
    {"router": "published", "attention_width": 12},
    {"router": "published", "router_states": "final", "merge": "weighted", "top_k": 2},
    {"merge": "soft", "tokens": "last"},
]
MODELS = ["gpt_oss", "llama", "qwen3", "bloom"]  # a block that puts out a tuple, and dense ones
CASES = [("qwen3_moe", kind) for kind in KINDS + MERGED] + [(model_type, {}) for model_type in MODELS]


@pytest.mark.parametrize(("model_type", "kind"), CASES)
def test_an_untrained_bypass_changes_nothing_bit_for_bit(model_type: str, kind) -> None:
    base = base_of(model_type)
    torch.manual_seed(0)
    patch = patch_of(base, Bypass(config(**kind)))
    ids, mask = tiny_batch()
    before = logits_of(base, ids, mask)
    with apply(base, patch):
        assert torch.equal(logits_of(base, ids, mask), before)


@pytest.mark.parametrize(("model_type", "kind"), CASES)
def test_generating_in_batches_with_left_padding_is_what_single_full_passes_give(
    model_type: str, kind
) -> None:
    base = base_of(model_type)
    patch = patch_of(base, random_bypass(**kind, scope_gate=False))
    rows = prompts()
    with apply(base, patch):
        expected = [one_by_one(base, row, 4) for row in rows]
        assert [generated(base, row, torch.ones_like(row), 4)[0] for row in rows] == expected
        assert generated(base, *left_padded(rows), 4) == expected
        with prompt_lengths([row.shape[1] for row in rows]):
            assert generated(base, *left_padded(rows), 4, use_cache=False) == expected
    plain = [one_by_one(base, row, 4) for row in rows]
    assert plain != expected


class Spy:
    """Records the experts that a bypass chooses, and those that it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decided: list[list[int]] = []
        self.ran: list[set[int]] = []
        route, forward = Bypass.route, Bypass.forward

        def spied_route(bypass: Bypass, states: Tensor, prompt: Tensor) -> Tensor:
            found = route(bypass, states, prompt)
            self.decided.append(found.tolist())
            return found

        def spied_forward(bypass: Bypass, x: Tensor, chosen: Tensor) -> Tensor:
            self.ran.append(set(chosen.tolist()))
            return forward(bypass, x, chosen)

        monkeypatch.setattr(Bypass, "route", spied_route)
        monkeypatch.setattr(Bypass, "forward", spied_forward)


@pytest.mark.parametrize("states", ["block-input", "final"])
def test_the_decision_is_taken_once_and_kept_over_a_generation(
    monkeypatch: pytest.MonkeyPatch, states
) -> None:
    base = base_of()
    patch = patch_of(base, random_bypass(router_states=states, scope_gate=False))
    rows = prompts()
    spy = Spy(monkeypatch)
    with apply(base, patch):
        generated(base, *left_padded(rows), 5)
        assert len(spy.decided) == 1
        assert len(spy.ran) == 5
        assert all(ran == set(spy.decided[0]) for ran in spy.ran)
        together = spy.decided.pop()
        for row in rows:
            logits_of(base, row)
        assert [decided for (decided,) in spy.decided] == together
    assert len(set(together)) > 1


def only_leaving_alone(bypass: Bypass, alone: bool) -> Bypass:
    """Make the scope gate's route always the likeliest, or never."""
    bypass.router.output.bias[-1] = 1e6 if alone else -1e6
    return bypass


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_left_alone_gets_the_bases_logits_bit_for_bit(kind) -> None:
    base = base_of()
    ids, mask = tiny_batch()
    before = logits_of(base, ids, mask)
    with apply(base, patch_of(base, only_leaving_alone(random_bypass(**kind), True))):
        assert torch.equal(logits_of(base, ids, mask), before)
    with apply(base, patch_of(base, only_leaving_alone(random_bypass(**kind), False))):
        assert not torch.equal(logits_of(base, ids, mask), before)


def test_a_prompt_left_alone_stays_alone_beside_edited_ones() -> None:
    base, bypass = base_of("llama"), random_bypass()
    rows = prompts(12, seed=3)
    patch = patch_of(base, bypass)
    ids, mask = left_padded(rows)
    before = logits_of(base, ids, mask)
    with apply(base, patch):
        after = logits_of(base, ids, mask)
        moved = (after - before).abs().amax(dim=(1, 2)) > 0
    assert 0 < int(moved.sum()) < len(rows)


def test_remove_restores_and_the_patch_can_be_put_on_again() -> None:
    base = base_of()
    patch = patch_of(base, random_bypass())
    ids, mask = tiny_batch()
    before = logits_of(base, ids, mask)
    applied = apply(base, patch)
    edited = logits_of(base, ids, mask)
    applied.remove()
    assert torch.equal(logits_of(base, ids, mask), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())
    assert "generate" not in vars(base.model)
    with apply(base.model, patch):
        assert torch.equal(logits_of(base, ids, mask), edited)


@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_it_composes_with_deltas_in_any_order(mode) -> None:
    base = base_of()
    delta, patch = tiny_patch(base, scale=0.5), patch_of(base, random_bypass())
    ids, mask = tiny_batch()
    before, found = logits_of(base, ids, mask), []
    for order in ([delta, patch], [patch, delta]):
        stack = Stack(base, mode=mode)
        stack.extend(order)
        found.append(logits_of(base, ids, mask))
        stack.remove(order[0])
        alone = logits_of(base, ids, mask)
        stack.clear()
        with apply(base, order[1], mode=mode):
            torch.testing.assert_close(logits_of(base, ids, mask), alone, rtol=0, atol=0)
    assert torch.equal(*found)
    assert torch.equal(logits_of(base, ids, mask), before)


def test_bypasses_of_two_layers_go_together_and_two_of_one_do_not() -> None:
    base = base_of()
    first, second = (patch_of(base, random_bypass(layer=layer, router_states="final")) for layer in (1, 2))
    ids, mask = tiny_batch()
    with apply(base, first), apply(base, second):
        both = logits_of(base, ids, mask)
        with pytest.raises(PatchError, match=r"layer 1 has the bypass sha256:\w+ already"):
            apply(base, patch_of(base, random_bypass(seed=5)))
        assert torch.equal(logits_of(base, ids, mask), both)
    with apply(base, second), apply(base, first):
        assert torch.equal(logits_of(base, ids, mask), both)
    one, other = apply(base, first), apply(base, second)
    for applied in (one, other):
        assert "generate" in vars(base.model)
        applied.remove()
    assert "generate" not in vars(base.model)


def test_an_answer_given_with_its_prompt_has_no_say_in_the_decision() -> None:
    base = base_of()
    rows, answer = prompts(8), torch.randint(4, 260, (1, 5))
    with apply(base, patch_of(base, random_bypass())), torch.no_grad():
        for row in rows:
            cache = returned_cache(base.model(input_ids=row, use_cache=True))
            go_on = {cache_name(base.model.forward): copy.deepcopy(cache)}
            continued = base.model(input_ids=answer, **go_on).logits
            with prompt_lengths([row.shape[1]]):
                whole = logits_of(base, torch.cat([row, answer], dim=1))
            torch.testing.assert_close(whole[:, row.shape[1] :], continued, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_told_apart_is_refused() -> None:
    base = base_of()
    patch = patch_of(base, random_bypass())
    row = prompts()[0]
    cache = returned_cache(base.model(input_ids=row, use_cache=True))
    run = partial(base.model, input_ids=row)
    with apply(base, patch):
        with pytest.raises(BypassError, match="filled without this bypass"):
            run(**{cache_name(base.model.forward): cache})
        with pytest.raises(BypassError, match="attention mask is"):
            run(attention_mask=torch.ones(1, 1, row.shape[1], row.shape[1]))
        with pytest.raises(BypassError, match="packed and paged"):
            run(cu_seq_lens_q=torch.tensor([0, 4]))
        with prompt_lengths([1, 2]), pytest.raises(BypassError, match="2 prompt lengths"):
            run()
        run()  # and nothing is left of the failed passes


def test_it_is_held_to_its_base() -> None:
    base = base_of()
    patch = patch_of(base, random_bypass())
    with pytest.raises(WrongBase):
        apply(base_of(seed=1), patch)
    with pytest.raises(WrongBase, match="expert weights of layer 1"):
        apply(base_of("llama", seed=1), patch_of(base_of("llama"), random_bypass()))
    with pytest.raises(ModelError, match="dense model"):
        wrap(tiny_model("llama"), tiny_tokenizer())


def test_half_precision_runs_the_experts_in_it() -> None:
    base = base_of()
    patch = patch_of(base, random_bypass())
    base.model.bfloat16()
    ids, mask = tiny_batch()
    with apply(base, patch, check=False):
        assert logits_of(base, ids, mask).dtype == torch.bfloat16
    assert read_bypass(patch).experts.down.dtype == torch.float32


def test_leaving_alone_is_one_of_the_routes_of_random_prompts() -> None:
    base, bypass = base_of(), random_bypass()
    states = torch.randn(100, 6, base.hidden_size)
    assert LEAVE_ALONE in bypass.route(states, torch.ones(100, 6, dtype=torch.bool)).tolist()
