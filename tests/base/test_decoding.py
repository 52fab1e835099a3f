"""Continuations come from the logits, whatever a checkpoint's generation settings say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.elicit.contexts import generate_contexts
from tests.tiny import EOS, tiny_base

ROWS = [(70, 71, 72, 73), (80,), (90, 91)]
LENGTH = 6


def likeliest(base: Base, row: tuple[int, ...]) -> tuple[int, ...]:
    ids = list(row)
    for _ in range(LENGTH):
        with torch.no_grad():
            ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(row) :])


def test_each_token_is_told_as_it_is_chosen() -> None:
    base, told = tiny_base("qwen3_moe"), []
    (tail,) = continue_rows(base, [ROWS[0]], LENGTH, each_token=told.append)
    assert tuple(told) == tail == likeliest(base, ROWS[0])


def test_all_rows_end_where_enough_of_them_have() -> None:
    base = tiny_base("qwen3_moe")
    whole = [likeliest(base, row) for row in ROWS]
    base.model.generation_config.eos_token_id = end = whole[0][2]
    asked: list[list[bool]] = []

    def enough(ended: Tensor) -> bool:
        asked.append(ended.tolist())
        return any(asked[-1])

    tails = continue_rows(base, ROWS, LENGTH, enough=enough)
    steps = min(tail.index(end) for tail in whole if end in tail) + 1
    assert tails == [tail[:steps] for tail in whole]
    assert asked == [[False] * 3] * (steps - 1) + [[tail[steps - 1] == end for tail in whole]]


def meddling(greedy: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Settings that would each change a continuation that is `greedy` without them."""
    return {
        "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 0, "top_p": 0.9, "min_p": 0.01},
        "penalties": {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1},
        "bad words": {"bad_words_ids": [[greedy[0]]]},
        "suppressed": {"suppress_tokens": [greedy[1]], "begin_suppress_tokens": [greedy[0]]},
        "bias": {"sequence_bias": [[[greedy[0]], -99.0]]},
        "forced": {"forced_eos_token_id": EOS, "forced_bos_token_id": EOS},
        "beams": {"num_beams": 4, "length_penalty": 9.0},
        "lengths": {"max_length": 5, "min_new_tokens": 3, "max_time": 0.0},
        "watermark": {"watermarking_config": {"bias": 99.0, "seeding_scheme": "selfhash"}},
        "many": {"num_return_sequences": 2, "num_beams": 2},
    }


NAMES = sorted(meddling((5, 6)))


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoints_settings_have_no_say(name: str) -> None:
    base = tiny_base("mixtral")
    expected = [likeliest(base, row) for row in ROWS]
    own = GenerationConfig(eos_token_id=EOS, **meddling(expected[0])[name])
    base.model.generation_config = own
    assert continue_rows(base, ROWS, LENGTH) == expected
    assert base.model.generation_config is own


def test_prefixes_are_drawn_from_the_logits_too() -> None:
    base = tiny_base("mixtral")
    drawn = generate_contexts(base, 3, 5, seed=0)
    assert len(set(drawn)) == 3
    assert drawn != generate_contexts(base, 3, 5, seed=1)
    for settings in meddling((5, 6)).values():
        base.model.generation_config = GenerationConfig(eos_token_id=EOS, **settings)
        assert generate_contexts(base, 3, 5, seed=0) == drawn


def test_settings_come_back_after_an_error() -> None:
    base = tiny_base("mixtral")
    own = base.model.generation_config
    with pytest.raises(IndexError):
        continue_rows(base, [(10**6,)], 2)
    assert base.model.generation_config is own
