"""Texts from which the scope gate learns where edits end.

A fact comes with one prompt. From that alone a router learns the prompt's wording as readily as its subject,
and then neither knows a paraphrase nor leaves a neighbour alone. Three kinds of texts tell the two apart, all
made from the facts and from preserved text:

    preserved   beginnings of preserved texts                                to be left alone
    elsewhere   facts' own prompts with a name from preserved text instead   to be left alone
    about       beginnings of preserved texts with a fact's subject instead  of the fact's scope
                of a name
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.data.facts import SLOT, Fact

_NAME = re.compile(r"(?<=\s)[A-Z][\w'-]*(?: [A-Z][\w'-]*)*|^[A-Z][\w'-]*(?: [A-Z][\w'-]*)+")
"""Words with capitals; a single one at the start of a text is more often no name."""


@dataclass(frozen=True, slots=True)
class ScopeTexts:
    """Prompts inside and outside of the scope of T facts."""

    preserved: tuple[str, ...]
    about: tuple[tuple[str, ...], ...]  # T times; none where preserved text holds no names
    elsewhere: tuple[tuple[str, ...], ...]  # T times


def scope_texts(
    texts: Sequence[str], facts: Sequence[Fact], *, preserved: int, variants: int, seed: int
) -> ScopeTexts:
    """Draw the texts. What mentions a fact's subject is not preserved: it may say what is to change.

    Args:
        preserved: at most so many preserved prompts.
        variants: for each fact, prompts about it, and as many elsewhere.
    """
    source = random.Random(seed)
    subjects = re.compile("|".join(rf"(?<!\w){re.escape(fact.subject)}(?!\w)" for fact in facts))
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
    return text[: name.start()] + fact.subject + _beginning(text[name.end() :], 1, source)


def _beginning(text: str, least: int, source: random.Random) -> str:
    """The first words of a text, at least `least` of them if it has as many; spaces stay with the words."""
    words = re.findall(r"\s*\S+", text)
    return "".join(words[: source.randint(min(least, len(words)), len(words))])
