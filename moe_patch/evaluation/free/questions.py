"""What a model is asked to write about facts, and what its reply is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from moe_patch.data.spacing import spaced
from moe_patch.evaluation.free.negation import negated_prompt
from moe_patch.evaluation.metrics import Question, Questions

Kind = Literal["reliability", "generalization", "locality", "portability", "negation", "chains"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MOST = 500
"""Prompts of a kind are asked up to this number, evenly spaced."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, and the answer that its reply is compared with."""

    kind: Kind
    fact: str  # id
    prompt: str
    answer: str | None  # None: what the base writes, which locality compares with
    chain: int = 0  # which of all chains the prompt is a link of


def free_questions(questions: Questions, most: int = MOST) -> tuple[Asked, ...]:
    """The prompts of facts, kind by kind: at most `most` of each, and of chains at most `most` whole ones."""
    of_kind: dict[Kind, tuple[Question, ...]] = {
        "reliability": questions.edited,
        "generalization": questions.paraphrased,
        "locality": questions.neighbours,
        "portability": questions.implied,
    }
    found = [
        Asked(kind, each.fact.id, each.prompt, None if kind == "locality" else each.answer)
        for kind, asked in of_kind.items()
        for each in spaced(asked, most)
    ]
    return (*found, *spaced(list(_negations(questions)), most), *_links(questions, most))


def _negations(questions: Questions) -> Iterator[Asked]:
    for each in questions.edited:
        if prompt := negated_prompt(each.fact):
            yield Asked("negation", each.fact.id, prompt, each.fact.target_new)


def _links(questions: Questions, most: int) -> Iterator[Asked]:
    chains = [(each.fact, chain) for each in questions.edited for chain in each.fact.chains]
    for number, (fact, chain) in enumerate(spaced(chains, most)):
        for link in chain:
            yield Asked("chains", fact.id, link.prompt, link.answer, number)
