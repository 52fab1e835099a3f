"""The one spelling in which a model reads a text.

A letter with an accent can be one character or two, and white space behind a prompt is easily overlooked:
both change the tokens, and so the answer, without a reader seeing why. Facts keep the spelling they were
given. What a model reads, and what is compared, has the spelling made here.
"""

from __future__ import annotations

import unicodedata


def composed(text: str) -> str:
    """The text in Unicode's normalisation form C."""
    return unicodedata.normalize("NFC", text)


def prompt_text(text: str) -> str:
    """A prompt as a model reads it: without white space at its end, which the answer brings along."""
    return composed(text).rstrip()


def phrase_text(text: str) -> str:
    """A subject or an answer as a model reads it: its neighbours bring the white space on both sides."""
    return composed(text).strip()


def comparable(text: str) -> str:
    """The form in which texts that differ in their spelling and their white space alone are equal."""
    return " ".join(composed(text).split())


def is_encodable(text: str) -> bool:
    """Whether a text has whole characters only. Others come from bytes that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
