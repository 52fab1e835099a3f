"""Facts of one file that do not go together, although each of them can be used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from moe_patch.data.facts import Fact
from moe_patch.data.text import comparable
from moe_patch.data.understanding.relations import Relation, relation_of, subject_key

Kind = Literal["contradiction", "repetition", "nothing new"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about facts that their writer may not want."""

    kind: Kind
    lines: tuple[int, ...]  # of the facts that it is about
    text: str


def find_conflicts(facts: Sequence[Fact], lines: Sequence[int]) -> list[Finding]:
    """Facts that ask the same of a subject in other words, and paraphrases that another fact answers.

    Two prompts ask the same if they have the same words, but for small ones, and either both answers have a
    number or none has: "Where was Ada born?" and "When was Ada born?" do not.

    Args:
        facts: of a file.
        lines: where each of them is in the file.
    """
    return [*_same_relations(facts, lines), *_paraphrases(facts, lines)]


def _same_relations(facts: Sequence[Fact], lines: Sequence[int]) -> Iterator[Finding]:
    first: dict[tuple[str, Relation, bool], int] = {}
    for number, fact in enumerate(facts):
        relation = relation_of(fact.prompt)
        key = subject_key(fact), relation, any(letter.isdigit() for letter in fact.target_new)
        if not relation or first.setdefault(key, number) == number:
            continue
        yield _compared(fact, facts[first[key]], lines[number], lines[first[key]], fact.text)


def _paraphrases(facts: Sequence[Fact], lines: Sequence[int]) -> Iterator[Finding]:
    asked: dict[str, list[int]] = defaultdict(list)
    for number, fact in enumerate(facts):
        asked[comparable(fact.text)].append(number)
    for number, fact in enumerate(facts):
        for paraphrase in fact.paraphrases:
            for other in asked.get(comparable(paraphrase), ()):
                if other != number:
                    yield _compared(fact, facts[other], lines[number], lines[other], paraphrase)


def _compared(fact: Fact, other: Fact, line: int, earlier: int, text: str) -> Finding:
    """What to say of two facts that ask the same."""
    answer, before = fact.target_new, other.target_new
    if comparable(answer).casefold() == comparable(before).casefold():
        told = f"line {line} asks in other words what line {earlier} asks, with the same answer: {text!r}"
        return Finding("repetition", (earlier, line), told)
    told = f"line {line} says {answer!r} to {text!r}, and line {earlier} says {before!r} to {other.text!r}"
    return Finding("contradiction", (earlier, line), told)
