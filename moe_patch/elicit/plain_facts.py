"""What a base knows of facts as people write them: where an answer starts, what it says already."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from moe_patch.base.logits import finite_logits
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt
from moe_patch.data.text import comparable
from moe_patch.data.understanding.guide import Judge
from moe_patch.elicit.asking import suit, write_on
from moe_patch.progress import Progress

MARGIN = 1.0
"""Nats by which the answer's first token must differ more from the base's own than any other token does."""

CONFIDENT = math.log(0.5)
"""Mean log-probability of a token, in nats, from which on the base is sure of what it says."""

_LONGEST_ANSWER = 4  # tokens of an answer whose confidence is measured
_AT_ONCE = 64  # prompts between two reports of progress


def judge_of(base: Base) -> Judge:
    """A judge of where the answers of sentences start: where the base would go on otherwise.

    It compares, at each place, the log-probability of the token that is there with that of the base's own
    choice. The place where they differ most is the answer's, if they differ by `MARGIN` more than elsewhere.
    """

    @torch.no_grad()
    def judge(sentence: str, starts: Sequence[int]) -> int | None:
        reading = base.reader.read_text(sentence)
        firsts = [next(n for n, (_, end) in enumerate(reading.spans) if end > start) for start in starts]
        if not firsts or min(firsts) < 1:
            return None
        ids = torch.tensor([reading.ids], device=base.device)  # (1, S)
        with finite_logits(base):
            logits = base.model(input_ids=ids, use_cache=False).logits[0]  # (S, V)
        before = logits[[first - 1 for first in firsts]].float()  # (N, V)
        said = before.gather(1, ids[0, firsts, None].to(before.device))[:, 0]  # (N,)
        surprise = before.amax(1) - said  # (N,)
        ordered = surprise.sort(descending=True)
        if len(starts) > 1 and ordered.values[0] - ordered.values[1] < MARGIN:
            return None
        return starts[int(ordered.indices[0])]

    return judge


def says_already(base: Base, facts: Sequence[Fact], progress: Progress | None = None) -> list[bool]:
    """Which facts the base says by itself: its greedy continuation of the prompt begins with the new answer.

    Raises:
        PromptError: a prompt cannot be read.
        NumericalError: the logits hold NaN or an infinity.
    """
    found: list[bool] = []
    for start in range(0, len(facts), _AT_ONCE):
        some = facts[start : start + _AT_ONCE]
        readings = [base.reader.read_answer(fact.text, fact.target_new, chat=False) for fact in some]
        longest = max(len(reading.answer) for reading in readings)
        written = write_on(base, [reading.prompt for reading in readings], longest)
        found += [
            comparable(text).startswith(comparable(fact.target_new))
            for text, fact in zip(written, some, strict=True)
        ]
        if progress is not None:
            progress("what the model says", len(found), len(facts))
    return found


def is_sure(base: Base, prompts: Sequence[str], progress: Progress | None = None) -> list[bool]:
    """Of which prompts the base is sure what comes next: its own answer has a likelihood of `CONFIDENT`.

    Raises:
        PromptError: a prompt cannot be read.
        NumericalError: a log-probability is NaN or infinite.
    """
    found: list[bool] = []
    for start in range(0, len(prompts), _AT_ONCE):
        some = prompts[start : start + _AT_ONCE]
        rows = [base.reader.read_prompt(prompt, chat=False) for prompt in some]
        written = write_on(base, rows, _LONGEST_ANSWER)
        answers = [
            base.reader.read_answer(prompt, answer, chat=False) if answer else None
            for prompt, answer in zip(some, written, strict=True)
        ]
        asked = [Prompt(answer.ids, 0, answer.first) for answer in answers if answer is not None]
        likely = iter(suit(base, asked))
        found += [answer is not None and next(likely) >= CONFIDENT for answer in answers]
        if progress is not None:
            progress("what the model is sure of", len(found), len(prompts))
    return found
