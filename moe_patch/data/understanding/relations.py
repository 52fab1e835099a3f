"""What a prompt asks of its subject, whatever its wording: the words of it that mean something."""

from __future__ import annotations

import re
from functools import lru_cache

from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.text import comparable
from moe_patch.data.understanding.vocabulary import KINDS, SMALL_WORDS

Relation = frozenset[str]
"""The words of a prompt that mean something; equal for "The capital of {} is" and "{}'s capital is"."""

_WORD = re.compile(r"[^\W\d_]+")
_EMPTY = frozenset({"name", "names", "called", "known", "located", "s"})
_OTHER_WORDS = (  # wordings of one relation, and the one word that stands for them
    ("author", r"written by|wrote \{\}|writer of"),
    ("director", r"directed by|directed \{\}"),
    ("composer", r"composed by|composed \{\}"),
    ("founder", r"founded by|founded \{\}"),
    ("creator", r"(?:created|invented) by|(?:created|invented) \{\}"),
    ("owner", r"owned by|owns \{\}"),
    ("born", r"birthplace|(?:place|date|year|city|country) of birth"),
    ("died", r"passed away|(?:place|date|year|city|country) of death"),
    ("occupation", r"profession|works as|job of"),
    ("citizen", r"citizenship|nationality"),
    ("native", r"mother tongue"),
    ("headquarter", r"headquartered|head office|based in"),
)
_WORDINGS = [(word, re.compile(rf"\b(?:{wordings})")) for word, wordings in _OTHER_WORDS]


@lru_cache(maxsize=1 << 12)
def meaning_of(prompt: str) -> Relation:
    """All words of a prompt with a `{}` that mean something, with one word for each of the usual wordings."""
    text = prompt.lower()
    for word, wordings in _WORDINGS:
        text = wordings.sub(f"{word} ", text)
    words = set(_WORD.findall(text.replace(SLOT, " "))) - SMALL_WORDS - _EMPTY
    return frozenset(word.removesuffix("s") if len(word) > 3 else word for word in words)


def relation_of(prompt: str) -> Relation:
    """What a prompt with a `{}` asks.

    Nouns for kinds of things, as in "in the country of", count only if there are no other words.
    """
    meaning = meaning_of(prompt)
    return meaning - KINDS or meaning


def subject_key(fact: Fact) -> str:
    """The subject, equal in another case and with other white space."""
    return comparable(fact.subject).casefold()
