"""Generated paraphrases: the fact's own prompt behind text that says nothing of it."""

from __future__ import annotations

import pytest

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.elicit.paraphrases import generate_paraphrases
from tests.tiny import tiny_base

FACTS = [Fact(str(i), "{} lies in", f"Town {i}", f"Land {i + 1}", f"Land {i}") for i in range(3)]


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


def test_each_is_the_prompt_after_a_context_and_follows_from_the_seed(base: Base) -> None:
    made = generate_paraphrases(base, FACTS, count=2)
    assert generate_paraphrases(base, FACTS, count=2) == made
    assert generate_paraphrases(base, FACTS, count=2, seed=1) != made
    for fact, some in zip(FACTS, made, strict=True):
        assert len(set(some)) == 2
        assert all(text.endswith(f" {fact.text}") and len(text) > len(fact.text) + 2 for text in some)
    assert generate_paraphrases(base, FACTS, count=0) == [(), (), ()]
    assert generate_paraphrases(base, []) == []


def test_contexts_that_speak_of_a_fact_or_leave_no_room_are_not_for_it(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = ("In TOWN 0. ", "By Land 1. ", "Of Land 2. ", "So it is. ", f"{'a' * 120}. ")
    monkeypatch.setattr("moe_patch.elicit.paraphrases.written_contexts", lambda *_, **__: contexts)
    texts = [[text.partition(". ")[0] for text in some] for some in generate_paraphrases(base, FACTS)]
    assert texts == [
        ["Of Land 2", "So it is"],
        ["So it is", "In TOWN 0"],
        ["So it is", "In TOWN 0", "By Land 1"],
    ]
    monkeypatch.setattr("moe_patch.elicit.paraphrases.written_contexts", lambda *_, **__: ())
    assert generate_paraphrases(base, FACTS) == [(), (), ()]
