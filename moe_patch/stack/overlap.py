"""Facts that several patches of a stack speak of: said twice, or said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_patch.data.facts import Fact
from moe_patch.stack.members import Stacked


@dataclass(frozen=True, slots=True)
class Overlap:
    """A prompt about a subject that two patches answer; the later one is the one that counts."""

    earlier: str  # names of the two patches
    later: str
    fact: Fact  # as the earlier patch has it
    instead: Fact  # as the later one has it

    @property
    def contradicts(self) -> bool:
        """Whether the two answer otherwise."""
        return self.fact.target_new != self.instead.target_new

    def __str__(self) -> str:
        if self.contradicts:
            return (
                f"{self.fact.text!r}: {self.earlier} says {self.fact.target_new!r}, "
                f"{self.later} says {self.instead.target_new!r}"
            )
        return f"{self.fact.text!r}: {self.earlier} and {self.later} both say {self.fact.target_new!r}"


def find_overlaps(stacked: Sequence[Stacked]) -> list[Overlap]:
    """Every fact of a patch that a later one answers as well, in order of the later facts."""
    answered: dict[tuple[str, str], tuple[str, Fact]] = {}
    found = []
    for member in stacked:
        for fact in member.patch.facts:
            question = (fact.prompt, fact.subject)
            if question in answered:
                earlier, other = answered[question]
                found.append(Overlap(earlier, member.name, other, fact))
            answered[question] = member.name, fact
    return found


def superseded_facts(stacked: Sequence[Stacked]) -> list[set[str]]:
    """For each patch, the ids of its facts that a later patch answers."""
    last = {
        (fact.prompt, fact.subject): place
        for place, member in enumerate(stacked)
        for fact in member.patch.facts
    }
    return [
        {fact.id for fact in member.patch.facts if last[fact.prompt, fact.subject] != place}
        for place, member in enumerate(stacked)
    ]


def with_unique_ids(facts: Sequence[tuple[Fact, Stacked]]) -> tuple[list[Fact], list[str]]:
    """The facts with every id once, and a note for each that had to change: `capital` becomes `capital@2`.

    The number is that of the patch in its stack.
    """
    taken: set[str] = set()
    renamed, notes = [], []
    for fact, member in facts:
        fact_id = fact.id
        while fact_id in taken:
            fact_id = f"{fact_id}@{member.number}"
        if fact_id != fact.id:
            notes.append(f"the id {fact.id!r} of {member.name} is taken: the fact is called {fact_id!r} now")
        taken.add(fact_id)
        renamed.append(replace(fact, id=fact_id))
    return renamed, notes
