"""Which characters of a text a token covers, where the tokenizer's own offsets do not say it exactly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise

Span = tuple[int, int]  # first character, and the one after the last

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_BLANK = "\u0120"  # how byte-level tokenizers write a blank


def character_spans(pieces: Sequence[str], offsets: Sequence[Span]) -> tuple[Span, ...]:
    """The span of each token, from the pieces of the vocabulary and the offsets that the tokenizer gives."""
    return tuple(_with_blanks(pieces, _of_bytes(pieces, offsets)))


def _of_bytes(pieces: Sequence[str], offsets: Sequence[Span]) -> list[Span]:
    """Offsets in which each byte (`<0x0A>`) has the span of its own character.

    Unigram tokenizers give all bytes of a run of unknown characters the span of the run, in which a subject
    and the line feed behind it may stand together.
    """
    found = [*offsets]
    for (start, end), run in groupby(range(len(offsets)), offsets.__getitem__):
        places = list(run)
        values = [int(match[1], 16) for i in places if (match := _BYTE.fullmatch(pieces[i]))]
        begins = [value & 0xC0 != 0x80 for value in values]  # the first byte of a character, in UTF-8
        if len(values) == len(places) and sum(begins) == end - start:
            for i, character in zip(places, accumulate(begins), strict=True):
                found[i] = (start + character - 1, start + character)
    return found


def _with_blanks(pieces: Sequence[str], offsets: Sequence[Span]) -> list[Span]:
    """Offsets that include the blanks at the end of a token, which `trim_offsets` leaves out."""
    found = [*offsets]
    for i, ((start, end), (following, _)) in enumerate(pairwise(offsets)):
        blanks = len(pieces[i]) - len(pieces[i].rstrip(_BLANK))
        found[i] = (start, max(end, min(end + blanks, following)))
    return found
