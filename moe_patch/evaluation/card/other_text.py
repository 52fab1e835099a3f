"""Text that has nothing to do with a patch's facts, to see what else the patch moves.

What its build has protected would show too little: the best text is what is left of the preserved text. Where
nothing is left, or nothing was given, the base writes some.
"""

from __future__ import annotations

from moe_patch.base.model import Base
from moe_patch.data.corpus import Corpus
from moe_patch.data.spacing import spaced
from moe_patch.elicit.own_text import NAME
from moe_patch.elicit.writing import write_exchanges, write_texts

TOKENS = 2048
"""Tokens of other text that a model is compared on, at most."""

_LENGTH = 256  # of a sequence
_TEXTS = 32  # that the base writes
_WRITTEN = 64  # tokens of each
_SEED = 4_000_037  # apart from those of the text that a build protects
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
    """A text's name and its sequences: some of what is given, evenly spaced, or what the base writes.

    There are no sequences if the base writes nothing but loops.
    """
    if given is not None:
        some = Corpus(given.name, tuple(spaced(given.texts, TOKENS)))
        return given.name, list(some.sequences(base.reader, max_tokens=TOKENS, length=_LENGTH))
    written = Corpus(NAME, tuple(_write(base)))
    return NAME, list(written.sequences(base.reader, max_tokens=TOKENS, length=_LENGTH))


def _write(base: Base) -> list[str]:
    """Texts of the base's, half of them in its chat template if it has one."""
    exchanges = write_exchanges(base, _TEXTS // 2, _SEED, length=_WRITTEN)
    return exchanges + write_texts(base, _TEXTS - len(exchanges), _SEED, length=_WRITTEN)
