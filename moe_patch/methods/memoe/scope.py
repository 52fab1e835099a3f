"""Texts from which the scope gate learns which prompts an edit applies to.

A fact has only one prompt. From it alone a router learns the wording as much as the subject, and then neither
recognises a paraphrase nor leaves a neighbour alone. Three kinds of texts teach it the difference. They are
made from the facts and from preserved text:

    preserved   beginnings of preserved texts                        outside of every scope
    elsewhere   a fact's prompt with a name from preserved text      outside of every scope
                in place of its subject
    about       the beginning of a preserved text with the fact's    inside the fact's scope
                subject in place of a name
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.data.facts import SLOT, Fact

_NAME = re.compile(r"(?<=\s)[A-Z][\w'-]*(?: [A-Z][\w'-]*)*|^[A-Z][\w'-]*(?: [A-Z][\w'-]*)+")
"""Words with capitals, but not a single one at the start of a text, which is seldom a name."""


@dataclass(frozen=True, slots=True)
class ScopeTexts:
    """Prompts inside and outside of the scope of T facts."""

    preserved: tuple[str, ...]
    about: tuple[tuple[str, ...], ...]  # for each fact; empty if preserved text has no names
    elsewhere: tuple[tuple[str, ...], ...]  # for each fact


def scope_texts(
    texts: Sequence[str], facts: Sequence[Fact], *, preserved: int, variants: int, seed: int
) -> ScopeTexts:
    """Draw the texts. Preserved texts with a fact's subject are left out: they may state the old answer.

    Args:
        texts: the preserved texts.
        facts: the T facts.
        preserved: the largest number of preserved prompts.
        variants: for each fact, the number of prompts about it, and of prompts elsewhere.
        seed: of the random choices.
    """
    source = random.Random(seed)
    subjects = re.compile("|".join(rf"(?<!\w){re.escape(fact.subject_text)}(?!\w)" for fact in facts))
    kept = [text for text in texts if not subjects.search(text)]
    source.shuffle(kept)
    named = [(text, names) for text in kept if (names := list(_NAME.finditer(text)))]
    others = sorted({name[0] for _, names in named for name in names})
    about, elsewhere = [], []
    for fact in facts:
        about.append(
            tuple(_about(fact, *source.choice(named), source) for _ in range(variants)) if named else ()
        )
        instead = source.sample(others, min(variants, len(others)))
        elsewhere.append(tuple(fact.prompt.replace(SLOT, name, 1) for name in instead))
    return ScopeTexts(
        tuple(_beginning(text, 2, source) for text in kept[:preserved]), tuple(about), tuple(elsewhere)
    )


def _about(fact: Fact, text: str, names: Sequence[re.Match[str]], source: random.Random) -> str:
    name = source.choice(names)
    return text[: name.start()] + fact.subject_text + _beginning(text[name.end() :], 1, source)


def _beginning(text: str, least: int, source: random.Random) -> str:
    """The first words of a text, with their spaces: a random number of them, at least `least` if possible."""
    words = re.findall(r"\s*\S+", text)
    return "".join(words[: source.randint(min(least, len(words)), len(words))])
