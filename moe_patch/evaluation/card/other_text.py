"""Text that has nothing to do with a patch's facts, to see what else the patch moves.

What its build has protected would show too little: the best text is what is left of the preserved text. Where
nothing is left, or nothing was given, the base writes some.
"""

from __future__ import annotations

from moe_patch.base.decoding import seeded
from moe_patch.base.model import Base
from moe_patch.data.corpus import Corpus
from moe_patch.data.spacing import spaced
from moe_patch.elicit.asking import write_on
from moe_patch.elicit.contexts import OPENINGS

OWN_TEXT = "the base's own text"

TOKENS = 2048
"""Tokens of other text that a model is compared on, at most."""

_LENGTH = 256  # of a sequence
_TEXTS = 32  # that the base writes
_WRITTEN = 64  # tokens of each
_SEED = 4_000_037
_LEAST = 256  # tokens; less of preserved text says too little


def held_out(base: Base, corpus: Corpus, used: int) -> Corpus | None:
    """The texts of a corpus behind its first `used` tokens; None if they are too few to tell anything."""
    tokens, first = 0, len(corpus.texts)
    for number, text in enumerate(corpus.texts):
        if tokens >= used:
            first = number
            break
        tokens += sum(map(len, base.reader.sequences([text], _LENGTH)))
    left = Corpus(f"{corpus.name}, held out", corpus.texts[first:])
    enough = sum(map(len, left.sequences(base.reader, max_tokens=_LEAST, length=_LENGTH))) >= _LEAST
    return left if enough else None


def other_text(base: Base, given: Corpus | None) -> tuple[str, list[list[int]]]:
    """A text's name and its sequences: some of what is given, evenly spaced, or what the base writes."""
    if given is not None:
        some = Corpus(given.name, tuple(spaced(given.texts, TOKENS)))
        return given.name, list(some.sequences(base.reader, max_tokens=TOKENS, length=_LENGTH))
    return OWN_TEXT, base.reader.sequences(_write(base), _LENGTH)


def _write(base: Base) -> list[str]:
    start = base.reader.read_start(chat=False)
    starts = [start or base.reader.read_prompt(opening, chat=False) for opening in OPENINGS]
    rows = [starts[number % len(starts)] for number in range(_TEXTS)]
    with seeded(base, _SEED):
        return list(filter(None, write_on(base, rows, _WRITTEN, sample=True)))
