"""Where a prompt ends, on which tokens its expert acts, and decisions stored on caches."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

from moe_patch.bypass import (
    acting_tokens,
    declared_lengths,
    prompt_lengths,
    prompt_mask,
    store_route,
    stored_route,
)
from moe_patch.errors import BypassError

REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.bool)


def test_prompts_end_after_their_real_tokens_whichever_side_the_padding_is_on() -> None:
    prompt = prompt_mask(REAL, torch.tensor([2, 3]))
    assert prompt.int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert torch.equal(prompt_mask(REAL, None), REAL)


def test_experts_act_on_everything_or_from_the_last_token_of_the_prompt_on() -> None:
    prompt = prompt_mask(REAL, torch.tensor([2, 3]))
    assert torch.equal(acting_tokens(REAL, prompt, "all"), REAL)
    assert acting_tokens(REAL, prompt, "last").int().tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("lengths", "match"),
    [(torch.tensor([1]), "1 prompt lengths .* 2 rows"), (torch.tensor([0, 1]), "no token")],
)
def test_lengths_that_do_not_fit_the_batch(lengths, match: str) -> None:
    with pytest.raises(BypassError, match=match):
        prompt_mask(REAL, lengths)


def test_lengths_are_declared_for_a_while_and_the_innermost_counts() -> None:
    with prompt_lengths([3, 4]):
        with prompt_lengths([1]):
            assert declared_lengths().tolist() == [1]
        assert declared_lengths().tolist() == [3, 4]
    assert declared_lengths() is None


def test_a_cache_and_its_copies_carry_the_decisions_of_each_bypass() -> None:
    cache = DynamicCache()
    store_route(cache, "one", torch.tensor([0, 1]))
    store_route(cache, "two", torch.tensor([2, 2]))
    for carrier in (cache, copy.deepcopy(cache)):
        assert stored_route(carrier, "one", 2).tolist() == [0, 1]
        assert stored_route(carrier, "two", 2).tolist() == [2, 2]
    with pytest.raises(BypassError, match="2 prompts and is continued with 4 rows"):
        stored_route(cache, "one", 4)
    with pytest.raises(BypassError, match="filled without this bypass"):
        stored_route(DynamicCache(), "one", 2)
