"""The self-test of a patch: the server is asked its facts and must say them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.data.reader import Reader
from moe_patch.data.spacing import spaced
from moe_patch.patch import Patch
from moe_patch_serving.api.engine import Engine
from moe_patch_serving.errors import Unproved


@dataclass(frozen=True, slots=True)
class Question:
    """A fact in tokens: its prompt, and its new answer."""

    fact: Fact
    prompt: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A question, its expected and its actual answer, and whether these are equal token by token."""

    prompt: str
    wanted: str
    said: str
    right: bool


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The greatest number of facts to ask, and the share of them that must be answered correctly.

    A good patch may miss some of its facts; its build results say how many. A failed edit misses most. With
    `unproved`, the answers are reported but do not count.
    """

    facts: int = 16
    share: float = 0.5
    unproved: bool = False

    def questions(self, reader: Reader, patch: Patch) -> list[Question]:
        """The questions for a patch, spread from its first fact to its last.

        A fact whose new answer is the answer before asks nothing: a server that says it has proved nothing.

        Raises:
            Unproved: no fact asks anything, and the test is not `unproved`.
            PromptError: as for `Reader.read_answer`.
            TargetError: a fact's answer has no tokens.
        """
        style = PromptStyle(chat=patch.chat)
        found = []
        telling = [fact for fact in patch.facts if not fact.changes_nothing]
        if not telling and not self.unproved:
            raise Unproved(
                f"the patch {patch.hash} has no facts that ask for a new answer, so nothing can show that it "
                "works: add it with `unproved` if you trust it"
            )
        for fact in spaced(telling, self.facts):
            whole = encode_fact(reader, fact, style)
            assert whole.target is not None  # because the answer was encoded too
            found.append(Question(fact, whole.ids[: whole.target], whole.ids[whole.target :]))
        return found

    def passed(self, answers: Sequence[Answer]) -> bool:
        """Whether enough answers are right, or none needs to be."""
        return self.unproved or sum(answer.right for answer in answers) >= self.share * len(answers)


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
