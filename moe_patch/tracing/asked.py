"""Facts as they are traced: with the answers that the base gives itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact, subject_tokens

PLAIN = PromptStyle()
ANSWER = 3  # tokens of an answer that the base gives itself
_ROWS = 64  # prompts in a pass


@dataclass(frozen=True, slots=True)
class Asked:
    """A fact as it is traced: its prompt, and the answer that the base gives itself."""

    fact: Fact
    prompt: Prompt  # with that answer
    subject: tuple[int, ...]  # indices of the subject's tokens
    answer: str
    known: bool  # whether the answer is the fact's true one


def ask_all(base: Base, facts: Sequence[Fact], style: PromptStyle) -> list[Asked]:
    """The facts with what the base says of them: the true answer if greedy decoding gives it.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_answer`.
        TargetError: as for `encode_fact`.
    """
    prompts = [encode_fact(base.reader, fact, style, answer=False) for fact in facts]
    true = [_true_answer(base, fact, style) for fact in facts]
    asked = []
    for first in range(0, len(facts), _ROWS):
        some = range(first, min(first + _ROWS, len(facts)))
        length = max(ANSWER, *(len(true[i]) for i in some))
        for prompt in (prompts[i] for i in some):
            base.reader.check_room(prompt.ids, length, "a fact's prompt")
        for i, said in zip(some, continue_rows(base, [prompts[i].ids for i in some], length), strict=True):
            known = bool(true[i]) and said[: len(true[i])] == true[i]
            answer = true[i] if known else said[:ANSWER]
            ids = prompts[i].ids
            asked.append(
                Asked(
                    facts[i],
                    Prompt(ids + answer, prompts[i].edited, len(ids)),
                    subject_tokens(base.reader, facts[i], style),
                    str(base.tokenizer.decode(answer)),
                    known,
                )
            )
    return asked


def _true_answer(base: Base, fact: Fact, style: PromptStyle) -> tuple[int, ...]:
    """The tokens of a fact's true answer; none if it is not known."""
    if fact.target_true is None:
        return ()
    reading = base.reader.read_answer(fact.text, fact.target_true, chat=style.chat, name=f"fact {fact.id}")
    return reading.answer
