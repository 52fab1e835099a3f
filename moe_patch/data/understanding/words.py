"""A text as words: each with the punctuation around it, a quotation or a bracketed remark as one word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

LONGEST = 1000
"""Characters of a text that is understood. What is longer is no prompt with one subject."""

_GROUP = re.compile(
    r'(?<!\w)(?:"{1,2}(?P<double>[^"]{1,300}?)"{1,2}|“(?P<curly>[^”]{1,300})”|«\s?(?P<angle>[^»]{1,300}?)\s?»'
    r"|(?<!\S)'(?P<single>[^'\s](?:[^']|'\w){0,200}?)'(?![\w])"
    r"|(?P<aside>\([^()]{1,100}\)))"
)
_CHUNK = re.compile(r"\S+")
_OPENING = "([{\"'\u201c\u2018\u00ab\u00bf\u00a1"
_CLOSING = ")]}\"'\u201d\u2019\u00bb,;:?!.\u2026"
_POSSESSIVE = ("'s", "\u2019s")
_TAIL = re.compile(r"(?:'s|\u2019s)?[,;:?!.\u2026)]*")
_ABBREVIATION = re.compile(
    r"(?:\w|(?:\w\.)+\w|st|dr|mr|mrs|ms|jr|sr|no|vs|inc|ltd|co|corp|mt|ft|gen|col|vol|ed|u\.s)", re.IGNORECASE
)


@dataclass(frozen=True)
class Word:
    """A word of a text; a quotation is one word, and so is a remark in brackets."""

    text: str  # without the punctuation around it
    start: int  # its characters in the text: start to end
    end: int
    after: str  # the punctuation behind it, with a possessive 's
    quoted: bool = False
    aside: bool = False  # in round brackets, which belong to it

    @cached_property
    def lower(self) -> str:
        """The word in lower case."""
        return self.text.lower()

    @cached_property
    def capital(self) -> bool:
        """Whether it is written like a name: with a capital, or in a script that has none."""
        return any(letter.isupper() or _has_no_case(letter) for letter in self.text)

    @cached_property
    def number(self) -> bool:
        """Whether it is a number, or starts as one."""
        return not self.capital and any(letter.isdigit() for letter in self.text)

    @property
    def possessive(self) -> bool:
        """Whether an 's belongs to it."""
        return self.after.startswith(_POSSESSIVE)

    @property
    def ends(self) -> bool:
        """Whether a part of the sentence ends behind it, other than at a comma."""
        return any(mark in self.after for mark in ";:?!.…")


def split_words(text: str) -> list[Word]:
    """The words of a text, from left to right."""
    found: list[Word] = []
    done = 0
    for match in _GROUP.finditer(text):
        found += _plain(text, done, match.start())
        kind = str(match.lastgroup)
        aside = kind == "aside"
        start, end = match.span() if aside else match.span(kind)
        tail = _TAIL.match(text, match.end())
        after = tail[0] if tail else ""
        found.append(Word(text[start:end], start, end, after, quoted=not aside, aside=aside))
        done = match.end() + len(after)
    return [*found, *_plain(text, done, len(text))]


def has_sentences(words: Sequence[Word]) -> bool:
    """Whether another sentence follows the first, other than one such as "It is"."""
    for word, follows in pairwise(words):
        ends = any(mark in word.after for mark in ".?!") and not follows.text[:1].islower()
        if ends and follows.lower not in ("it", "they"):
            return True
    return False


def _plain(text: str, start: int, end: int) -> Iterator[Word]:
    for match in _CHUNK.finditer(text, start, end):
        chunk = match[0].lstrip(_OPENING)
        first = match.end() - len(chunk)
        word = chunk.rstrip(_CLOSING)
        word = word[:-2] if word.endswith(_POSSESSIVE) else word
        after = chunk[len(word) :]
        if word and after.startswith(".") and _ABBREVIATION.fullmatch(word) and not word.isdigit():
            word, after = f"{word}.", after[1:]
        if word:
            yield Word(word, first, first + len(word), after)
        elif match[0] in "&/-\u2013\u2014":
            yield Word(match[0], match.start(), match.end(), "")


def _has_no_case(letter: str) -> bool:
    return letter.isalpha() and letter.lower() == letter.upper() and ord(letter) > 0x2FF


def has_capitals(text: str) -> bool:
    """Whether the script of a text tells names by capitals; if not, nothing here can."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(map(_has_no_case, letters)) * 2 <= len(letters)
