"""Every prompt of an evaluation by itself: what the model says with and without the patch, and how likely
answers are to it.

A score says how many prompts are as they should be. Samples say which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation.generated import GeneratedQuestions
from moe_patch.evaluation.metrics import Question, Questions, Setting, own_answers
from moe_patch.evaluation.scoring import AnswerScore, answer_text, score_answers
from moe_patch.io.plain_text import plain_text

Kind = Literal["fact", "paraphrase", "neighbour", "keep", "portability"]

_CHANGED: frozenset[Kind] = frozenset({"fact", "paraphrase", "portability"})
"""Kinds that should be answered with the new answer; the others should be answered as before."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, and the answers whose probability is looked at."""

    kind: Kind
    generated: bool  # whether the base made the prompt, and not the user
    question: Question
    new: str  # the answer that the edit is to bring about; of portability, what follows from it
    old: str | None  # the answer that was true; where a neighbour has none, what the base says

    @property
    def wanted(self) -> str | None:
        """The answer that is right once the patch is on."""
        return self.new if self.kind in _CHANGED else self.old


@dataclass(frozen=True, slots=True)
class Said:
    """What one state of the model says to one prompt."""

    says: str  # greedily, as many tokens as the answer has
    new: AnswerScore
    old: AnswerScore | None  # None if there is no old answer

    def to_json(self) -> dict[str, Any]:
        """Plain data; a probability is the geometric mean over the answer's tokens."""
        old = None if self.old is None else probability(self.old)
        return {"says": self.says, "new": probability(self.new), "old": old}


def probability(score: AnswerScore) -> float:
    """The geometric mean of the probabilities of an answer's tokens, which COUNTERFACT's rule compares."""
    return math.exp(score.logprob)


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, without and with the patch."""

    asked: Asked
    base: Said
    patched: Said

    @property
    def good(self) -> bool:
        """Whether the patched model says the whole of the answer that is right."""
        score = self.patched.new if self.asked.kind in _CHANGED else self.patched.old
        return self.patched.says == self.base.says if score is None else score.exact

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        asked = self.asked
        return {
            "fact": asked.question.fact.id,
            "kind": asked.kind,
            "generated": asked.generated,
            "prompt": asked.question.prompt,
            "wanted": asked.wanted,
            "answers": {"new": asked.new, "old": asked.old},
            "base": self.base.to_json(),
            "patched": self.patched.to_json(),
            "good": self.good,
        }


def list_asked(questions: Questions, made: GeneratedQuestions | None) -> list[Asked]:
    """All prompts of the facts, and those that the base made for them."""
    true = questions.scoring.rule == "counterfact"  # the fact's true answer is right on neighbours too
    found = [*_asked("fact", questions.edited), *_asked("paraphrase", questions.paraphrased)]
    found += _asked("neighbour", questions.neighbours, true=true)
    found += [*_asked("keep", questions.kept), *_asked("portability", questions.implied)]
    if made is not None:
        found += _asked("paraphrase", made.paraphrased, generated=True)
        found += _asked("neighbour", made.neighbours, generated=True)
    return found


def _asked(
    kind: Kind, questions: Sequence[Question], *, true: bool = False, generated: bool = False
) -> Iterator[Asked]:
    for each in questions:
        new, old = each.fact.target_new, each.fact.target_true
        if kind == "portability":
            new, old = str(each.answer), None
        elif kind not in _CHANGED:
            old = each.answer or (old if true else None)
        yield Asked(kind, generated, each, new, old)


def ask_base(base: Base, asked: Sequence[Asked], setting: Setting) -> tuple[list[Asked], list[Said]]:
    """What the model without the patch says, and the prompts with that as the old answer where there is none.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    says = _says(base, asked, setting, "base: samples")
    asked = [
        replace(each, old=text) if each.wanted is None and text else each
        for each, text in zip(asked, says, strict=True)
    ]
    return asked, _scored(base, asked, says, setting, "base: samples")


def ask_patched(base: Base, asked: Sequence[Asked], setting: Setting) -> list[Said]:
    """What the model says as it is now, to the prompts that `ask_base` has returned.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    says = _says(base, asked, setting, "patched: samples")
    return _scored(base, asked, says, setting, "patched: samples")


def _says(base: Base, asked: Sequence[Asked], setting: Setting, stage: str) -> list[str]:
    questions = [replace(each.question, prompt=setting.asked(each.question.prompt)) for each in asked]
    said = own_answers(base, questions, setting.of_base(), f"{stage}, said")  # they are rewritten already
    return [answer_text(base, each) for each in said]


def _scored(
    base: Base, asked: Sequence[Asked], says: Sequence[str], setting: Setting, stage: str
) -> list[Said]:
    names = [each.question.name for each in asked]
    prompts = [setting.asked(each.question.prompt) for each in asked]
    rivals = [number for number, each in enumerate(asked) if each.old is not None]
    pairs = [(prompt, each.new) for prompt, each in zip(prompts, asked, strict=True)]
    pairs += [(prompts[number], str(asked[number].old)) for number in rivals]
    scores = score_answers(
        base,
        pairs,
        batch_size=setting.batch_size,
        chat=setting.chat,
        progress=setting.progress,
        stage=stage,
        names=[*names, *(names[number] for number in rivals)],
    )
    old = dict(zip(rivals, scores[len(asked) :], strict=True))
    return [Said(text, scores[number], old.get(number)) for number, text in enumerate(says)]


def samples_by_fact(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Plain data: the facts in their order, each with all of its prompts; `taken` is of its own prompt."""
    by_fact: dict[Fact, list[Sample]] = {each.asked.question.fact: [] for each in samples}
    for each in samples:
        by_fact[each.asked.question.fact].append(each)
    return [
        {
            "fact": fact.id,
            "taken": all(each.good for each in some if each.asked.kind == "fact"),
            "prompts": [each.to_json() for each in some],
        }
        for fact, some in by_fact.items()
    ]


def samples_table(samples: Sequence[Sample]) -> Table:
    """The facts, a row each: what is wanted and said, and how likely the answers were and are."""
    facts = [each for each in samples if each.asked.kind == "fact"]
    rivals = any(each.asked.old is not None for each in facts)
    taken = sum(each.good for each in facts)
    title = f"Facts ({taken} of {len(facts)} taken): the answers' probability in percent, base and patched"
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("prompt", "wanted", "said"):
        table.add_column(column, overflow="fold")
    for column in ("new", *(["old"] if rivals else [])):
        table.add_column(column, justify="right")
    table.add_column("taken")
    for each in facts:
        texts = (each.asked.question.prompt, each.asked.new, each.patched.says)
        moved = [_moved(each.base.new, each.patched.new)]
        moved += [_moved(each.base.old, each.patched.old)] if rivals else []
        table.add_row(*map(plain_text, texts), *moved, "yes" if each.good else "no")
    return table


def _moved(before: AnswerScore | None, after: AnswerScore | None) -> str:
    if before is None or after is None:
        return "-"
    return f"{100 * probability(before):.1f} \N{RIGHTWARDS ARROW} {100 * probability(after):.1f}"
