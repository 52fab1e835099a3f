"""Proof that a patch took: the server is asked its facts and has to say them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.patch import Patch
from moe_patch_serving.api.engine import Engine


@dataclass(frozen=True, slots=True)
class Question:
    """A fact in tokens: its prompt, and the answer that the patch is for."""

    fact: Fact
    prompt: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked, what should be said, what was said, and whether that is the same to the token."""

    prompt: str
    wanted: str
    said: str
    right: bool


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How many of a patch's facts are asked at most, and the share of them that has to be answered.

    A patch need not reach all its facts; its build says how many. An edit that went wrong reaches few.
    """

    facts: int = 16
    share: float = 0.5

    def questions(self, tokenizer: Any, patch: Patch) -> list[Question]:
        """What to ask of a patch, from its first fact to its last; TargetError where that has no tokens."""
        style = PromptStyle(chat=patch.chat)
        found = []
        for fact in _spread(patch.facts, self.facts):
            whole = encode_fact(tokenizer, fact, style)
            assert whole.target is not None  # as the answer was encoded too
            found.append(Question(fact, whole.ids[: whole.target], whole.ids[whole.target :]))
        return found

    def passed(self, answers: Sequence[Answer]) -> bool:
        """Whether enough answers are right; with nothing to ask, there is nothing to fail."""
        return sum(answer.right for answer in answers) >= self.share * len(answers)


DEFAULT = SelfTest()


async def ask_questions(engine: Engine, questions: Sequence[Question]) -> list[Answer]:
    """Decode greedily after each prompt, as many tokens as its answer has, all at once."""
    tokenizer = engine.tokenizer
    said = await asyncio.gather(
        *(engine.decode(question.prompt, len(question.wanted)) for question in questions)
    )
    return [
        Answer(
            prompt=question.fact.text,
            wanted=question.fact.target_new,
            said=str(tokenizer.decode(tokens)).strip(),
            right=tuple(tokens) == question.wanted,
        )
        for question, tokens in zip(questions, said, strict=True)
    ]


def _spread(facts: Sequence[Fact], count: int) -> list[Fact]:
    """At most `count` facts, evenly from first to last."""
    if len(facts) <= count:
        return list(facts)
    return [facts[place * len(facts) // count] for place in range(count)]
