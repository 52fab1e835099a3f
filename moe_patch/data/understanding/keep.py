"""Prompts about a fact's subject whose answers should stay: from other facts, and from common relations.

A suggestion asks something else of the same subject. Whether the base has an answer to it is not known here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.text import comparable
from moe_patch.data.understanding.relations import Relation, meaning_of, relation_of, subject_key

MOST = 4
"""Suggestions for a fact."""

_MOST_ALIKE = 20  # prompts of other facts that are considered for one


@dataclass(frozen=True, slots=True)
class Family:
    """Subjects of one kind: what only prompts about them say, and prompts that suit them all."""

    nouns: frozenset[str]  # of what they have: "the capital of {}", "{}'s capital"
    verbs: frozenset[str]  # of what they do or what is done to them: "{} was born"
    prompts: tuple[str, ...]


def _family(nouns: str, verbs: str, *prompts: str) -> Family:
    return Family(frozenset(nouns.split()), frozenset(verbs.split()), prompts)


PEOPLE = _family(
    "occupation profession citizenship spouse mother father child gender birth death tongue",
    "born died married",
    "{} was born in",
    "The occupation of {} is",
    "The native language of {} is",
    "{} is a citizen of",
)
COUNTRIES = _family(
    "capital currency parliament",
    "borders",
    "The capital of {} is",
    "The official language of {} is",
    "The currency of {} is",
    "{} is on the continent of",
)
WORKS = _family(
    "author director genre composer screenwriter publisher",
    "written directed published",
    "The author of {} is",
    "The original language of {} is",
    "{} was published in",
    "The genre of {} is",
)
ORGANISATIONS = _family(
    "headquarter headquarters ceo founder employees subsidiary",
    "headquartered founded",
    "The headquarters of {} are in",
    "{} was founded in",
    "The founder of {} is",
    "The CEO of {} is",
)
FAMILIES = (PEOPLE, COUNTRIES, WORKS, ORGANISATIONS)

_HAS = re.compile(r"of (?:the )?\{\}|\{\}'s")
_WORD = re.compile(r"[^\W\d_]+")


def suggest_keep(facts: Sequence[Fact], most: int = MOST) -> list[tuple[str, ...]]:
    """For each fact, prompts with a `{}` that ask something else of its subject.

    None shares a word that means something with a prompt that the file changes for the same subject. First
    come prompts of other facts, about subjects of which the same is asked as of this one; then common ones,
    if the prompt shows what kind of subject it has.

    Args:
        facts: of a file.
        most: how many for a fact; what it keeps already counts.
    """
    changed: dict[str, set[str]] = defaultdict(set)  # words of what is asked, by subjects
    for fact in facts:
        changed[subject_key(fact)] |= meaning_of(fact.prompt)
    alike = _prompts_of_alike(facts)
    suggested: list[tuple[str, ...]] = []
    for fact in facts:
        taken = set(changed[subject_key(fact)]).union(*map(meaning_of, fact.keep))
        found: list[str] = []
        for prompt in (*alike.get(relation_of(fact.prompt), ()), *_common_prompts(fact)):
            meaning = meaning_of(prompt)
            if meaning and not taken & meaning and relation_of(fact.prompt):
                taken |= meaning
                found.append(prompt)
        suggested.append(tuple(found[: max(0, most - len(fact.keep))]))
    return suggested


def _prompts_of_alike(facts: Sequence[Fact]) -> Mapping[Relation, Sequence[str]]:
    """For each relation, prompts of at least two subjects that have it: one may be alike by chance."""
    prompts: dict[str, dict[str, None]] = defaultdict(dict)
    for fact in facts:
        prompts[subject_key(fact)][comparable(fact.prompt)] = None
    counts: dict[Relation, Counter[str]] = defaultdict(Counter)
    for own in prompts.values():
        for relation in dict.fromkeys(map(relation_of, own)):
            counts[relation].update(list(own))
    return {
        relation: [prompt for prompt, count in alike.most_common(_MOST_ALIKE) if count > 1]
        for relation, alike in counts.items()
    }


def _common_prompts(fact: Fact) -> Iterator[str]:
    """Prompts of the family that the prompt shows, if it shows just one."""
    prompt = fact.prompt.lower()
    before, _, after = prompt.partition(SLOT)
    nouns = set(_WORD.findall(f"{before} {after}")) if _HAS.search(prompt) else set()
    verbs = set(_WORD.findall(after)[:2])
    shown = [family for family in FAMILIES if family.nouns & nouns or family.verbs & verbs]
    if len(shown) == 1:
        yield from shown[0].prompts
