"""What a server is asked, and how many right answers are enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_patch.data.reader import Reader
from moe_patch.errors import TargetError
from moe_patch_serving.api.self_test import Answer, SelfTest
from moe_patch_serving.errors import Unproved
from tests.patch.patches import delta_patch
from tests.tiny import tiny_tokenizer


def test_questions_are_the_facts_in_tokens() -> None:
    tokenizer = tiny_tokenizer()
    (question,) = SelfTest().questions(Reader(tokenizer), delta_patch(1))
    assert tokenizer.decode(question.prompt) == "The capital of Land 0 is"
    assert tokenizer.decode(question.wanted) == " Löwenburg"


@pytest.mark.parametrize(("count", "asked"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (10, [0, 2, 5, 7])])
def test_they_are_spread_over_the_patch(count: int, asked: list[int]) -> None:
    patch = delta_patch(count)
    found = SelfTest(facts=4).questions(Reader(tiny_tokenizer()), patch)
    assert [question.fact for question in found] == [patch.facts[number] for number in asked]


def test_a_patch_that_was_built_with_a_chat_template_is_asked_with_it() -> None:
    tokenizer = tiny_tokenizer()
    patch = delta_patch(1, hyperparameters={"targets": {"chat": True}})
    with pytest.raises(TargetError, match="no chat template"):
        SelfTest().questions(Reader(tokenizer), patch)
    tokenizer.chat_template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    (question,) = SelfTest().questions(Reader(tokenizer), patch)
    assert tokenizer.decode(question.prompt) == "<The capital of Land 0 is><"


@pytest.mark.parametrize(
    ("share", "right", "passed"),
    [(0.5, 0, False), (0.5, 1, False), (0.5, 2, True), (1, 3, False), (1, 4, True)],
)
def test_enough_answers_have_to_be_right(share: float, right: int, passed: bool) -> None:
    answer = Answer("p", "w", "s", right=True)
    answers = [replace(answer, right=number < right) for number in range(4)]
    assert SelfTest(share=share).passed(answers) is passed


def test_a_patch_that_asks_nothing_proves_nothing() -> None:
    reader, patch = Reader(tiny_tokenizer()), delta_patch(2)
    told = tuple(replace(fact, target_true=f" {fact.target_new}".strip()) for fact in patch.facts)
    for silent in (replace(patch, facts=(), results=()), replace(patch, facts=told)):
        with pytest.raises(Unproved, match=f"{silent.hash} has no facts that ask for a new answer"):
            SelfTest().questions(reader, silent)
        assert SelfTest(unproved=True).questions(reader, silent) == []
    assert len(SelfTest().questions(reader, replace(patch, facts=(told[0], patch.facts[1])))) == 1


def test_who_trusts_a_patch_accepts_any_answer() -> None:
    assert SelfTest(unproved=True).passed([Answer("p", "w", "s", right=False)])
    assert SelfTest(unproved=True).passed([])
