"""Where names are in a text: the longest runs of words that are written as names are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.data.understanding.vocabulary import (
    JOINING,
    MONTHS,
    PERHAPS_JOINING,
    PREPOSITIONS,
    SMALL_WORDS,
)
from moe_patch.data.understanding.words import Word

_COMMANDS = frozenset({"name", "give", "tell", "provide", "list", "identify", "state"})
_MOST_JOINING = 3  # words between two parts of a name


@dataclass(frozen=True, slots=True)
class Name:
    """A run of words that may be one name."""

    first: int  # index of its first word
    last: int  # index of its last word
    doubts: tuple[str, ...]  # what stands between its parts, where they could be two names


def is_name(words: Sequence[Word], place: int) -> bool:
    """Whether a word is written as names are. The first word of a sentence always has a capital."""
    word = words[place]
    if word.quoted:
        return word.capital
    if word.aside or not word.capital:
        return False
    if word.text == "I":  # a number, as in "Pedro I", or a pronoun
        return place > 0 and words[place - 1].capital and not words[place - 1].after
    starts = place == 0 or any(mark in words[place - 1].after for mark in ".?!")
    return not (starts and (word.lower in SMALL_WORDS or word.lower in _COMMANDS))


def find_names(words: Sequence[Word]) -> list[Name]:
    """The names of a text from left to right, as long as they can be. Dates and numbers are none."""
    named = [is_name(words, place) for place in range(len(words))]
    found: list[Name] = []
    place = 0
    while place < len(words):
        if not (named[place] or words[place].number or _numbers(words[place])):
            place += 1
            continue
        name = _longest(words, named, place)
        if any(named[name.first : name.last + 1]) and not _is_date(words[name.first : name.last + 1]):
            found.append(name)
        place = name.last + 1
    return found


def _longest(words: Sequence[Word], named: Sequence[bool], first: int) -> Name:
    """The longest run from `first` on."""
    last, doubts = first, []
    while (step := _next_part(words, named, first, last)) is not None:
        last, doubt = step
        doubts += [doubt] if doubt else []
    return Name(first, last, tuple(doubts))


def _next_part(
    words: Sequence[Word], named: Sequence[bool], first: int, last: int
) -> tuple[int, str | None] | None:
    """The last word of the run with one part more, and what is doubtful about it; None at the end."""
    word, after = words[last], last + 1
    if after == len(words) or (word.ends and not _is_exclamation(words, last)):
        return None
    comma = "," in word.after
    if words[after].aside:
        aside = not comma and named[last] and _is_part(words[after])
        return (after, None) if aside else None
    if named[after] or words[after].number:
        if comma and not any(named[first:after]):  # "In 1995, Rome"
            return None
        return after, _doubt_of_neighbours(words, named, first, last)
    if comma or word.possessive:
        return None
    return _over_small_words(words, named, last)


def _doubt_of_neighbours(words: Sequence[Word], named: Sequence[bool], first: int, last: int) -> str | None:
    if "," in words[last].after:
        return ","
    if words[last].possessive:
        return "'s"
    if words[last].quoted or words[last + 1].quoted:
        return "a quotation"
    before = words[first - 1].lower if first else ""
    if first == last and words[last].number and len(words[last].text) == 4 and before in PREPOSITIONS:
        return "a year"  # "in 2011 Cannes ..."
    return None


def _over_small_words(
    words: Sequence[Word], named: Sequence[bool], last: int
) -> tuple[int, str | None] | None:
    between: list[str] = []
    place = last + 1
    while place < len(words) and not named[place] and not words[place].number and not words[place].after:
        if words[place].text not in JOINING | PERHAPS_JOINING or len(between) == _MOST_JOINING:
            return None
        between.append(words[place].text)
        place += 1
    if place == len(words) or not between or words[place].after.startswith(("(", ")")):
        return None
    sure = between[0] == "of" or JOINING.issuperset(between)
    if named[place]:
        return place, None if sure else " ".join(between)
    return (place, None) if words[place].number and sure and named[last] else None


def _is_exclamation(words: Sequence[Word], place: int) -> bool:
    """Whether a ! or a ? belongs to a name: another mark or a word in lower case follows ("Oliver! is")."""
    after = words[place].after
    return after in ("!", "?") and place + 1 < len(words) and words[place + 1].text[:1].islower()


def _is_part(aside: Word) -> bool:
    """Whether a remark in brackets is part of the name before it, as "(band)" and "(SS-369)" are."""
    inside = aside.text[1:-1].split()
    return len(inside) <= 4 and inside[0].lower() not in SMALL_WORDS


def _numbers(word: Word) -> bool:
    return word.aside and word.text[1:-1].isdigit()


def _is_date(words: Sequence[Word]) -> bool:
    """Whether words are a date or a number, such as "4 July 1961"."""
    return all(word.number or word.lower in MONTHS or word.lower == "of" for word in words)
