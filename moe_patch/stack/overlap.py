"""Facts that several patches of a stack answer, with the same answer or with different ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_patch.data.facts import Fact
from moe_patch.data.text import comparable
from moe_patch.stack.members import Stacked


@dataclass(frozen=True, slots=True)
class Overlap:
    """A prompt about a subject that two patches answer; the later one wins."""

    earlier: str  # name of the earlier patch
    later: str  # name of the later patch
    fact: Fact  # of the earlier patch
    instead: Fact  # of the later patch

    @property
    def contradicts(self) -> bool:
        """Whether the two answers differ."""
        return comparable(self.fact.target_new) != comparable(self.instead.target_new)

    def __str__(self) -> str:
        if self.contradicts:
            return (
                f"{self.fact.text!r}: {self.earlier} says {self.fact.target_new!r}, "
                f"{self.later} says {self.instead.target_new!r}"
            )
        return f"{self.fact.text!r}: {self.earlier} and {self.later} both say {self.fact.target_new!r}"


def find_overlaps(stacked: Sequence[Stacked]) -> list[Overlap]:
    """Every fact that a later patch answers too, in the order of the later facts."""
    answered: dict[tuple[str, str], tuple[str, Fact]] = {}
    found = []
    for member in stacked:
        for fact in member.patch.facts:
            question = fact.question
            if question in answered:
                earlier, other = answered[question]
                found.append(Overlap(earlier, member.name, other, fact))
            answered[question] = member.name, fact
    return found


def superseded_facts(stacked: Sequence[Stacked]) -> list[set[str]]:
    """For each patch, the ids of its facts that a later patch answers too."""
    last = {fact.question: place for place, member in enumerate(stacked) for fact in member.patch.facts}
    return [
        {fact.id for fact in member.patch.facts if last[fact.question] != place}
        for place, member in enumerate(stacked)
    ]


def with_unique_ids(facts: Sequence[tuple[Fact, Stacked]]) -> tuple[list[Fact], list[str]]:
    """The facts with unique ids, and a note for each changed id: `capital` becomes `capital@2`.

    The number is the patch's number in its stack.
    """
    taken: set[str] = set()
    renamed, notes = [], []
    for fact, member in facts:
        fact_id = fact.id
        while fact_id in taken:
            fact_id = f"{fact_id}@{member.number}"
        if fact_id != fact.id:
            notes.append(f"the id {fact.id!r} of {member.name} is taken: the fact is now called {fact_id!r}")
        taken.add(fact_id)
        renamed.append(replace(fact, id=fact_id))
    return renamed, notes
