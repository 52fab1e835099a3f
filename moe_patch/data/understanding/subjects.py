"""Where the subject of a prompt is: the longest part of it that names what it is about.

One name in a prompt is its subject, if it is clear where the name ends: behind it comes punctuation, a small
word or a verb that is known. Of several names, grammar may tell the subject. In all other cases there is an
error, since nobody would notice an edit at the wrong place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moe_patch.data.understanding.names import Name, find_names
from moe_patch.data.understanding.vocabulary import (
    ARTICLES,
    AUXILIARIES,
    FINITE,
    KIN,
    KINDS,
    PREPOSITIONS,
    QUESTION_WORDS,
    ROLES,
    SMALL_WORDS,
    VERBS,
)
from moe_patch.data.understanding.words import LONGEST, Word, has_capitals, has_sentences, split_words
from moe_patch.errors import UnclearFact

SubjectBy = Literal["given", "brackets", "name", "grammar", "other lines", "asked", "whole prompt"]
"""How a subject was found: here, as the only name of a prompt, or as one of several by grammar."""

_MOST_AROUND = 14  # words beside the subject: in a longer sentence, a name is often not what it is about
_SHOWN = 100  # characters of a long text
_START_TITLES = frozenset({"no", "she", "he", "we", "you", "they"})
_DO = frozenset({"do", "does", "did"})
_PLACING = frozenset({"in", "at", "on", "near", "within", "inside", "outside", "during"})


@dataclass(frozen=True, slots=True)
class Place:
    """The characters of a text that name its subject."""

    start: int
    end: int
    by: SubjectBy


def find_subject(prompt: str) -> Place:
    """Where the subject of a prompt is, by the rules of the English language.

    Raises:
        UnclearFact: no part of the prompt, or more than one, could be the subject.
    """
    if len(prompt) > LONGEST:
        why = f"it has more than {LONGEST:,} characters"
        raise unclear_subject(f"{prompt[:_SHOWN]}...", (), why)
    words = split_words(prompt)
    names = find_names(words)
    if not has_capitals(prompt):
        raise unclear_subject(
            prompt, (), "its script has no capitals, so names cannot be told from other words"
        )
    _refuse_odd_texts(prompt, words, names)
    names = _without_focus(words, names)
    alone = len(names) == 1
    found = _only_name(words, names[0]) if alone else _grammatical_subject(words, names)
    if found is None or _has_other_quotation(words, *found):
        raise unclear_subject(prompt, tuple(_texts(prompt, words, names)), _why(names))
    first, last = found
    start, end = characters(prompt, words, first, last)
    return Place(start, end, "name" if alone else "grammar")


def unclear_subject(prompt: str, candidates: tuple[str, ...], why: str) -> UnclearFact:
    """The error for a prompt whose subject is not clear, with what to do about it."""
    could = f", it could be {' or '.join(map(repr, candidates))}" if candidates else ""
    return UnclearFact(
        f"unclear in {prompt!r}{could}: {why}; write [brackets] around it, or name it in a field `subject`",
        field="subject",
        candidates=candidates,
    )


def characters(text: str, words: Sequence[Word], first: int, last: int) -> tuple[int, int]:
    """Start and end of a run of words in the text, with the ! that belongs to a name."""
    end = words[last].end
    mark = words[last].after[:1]
    follows = words[last + 1].text[:1] if last + 1 < len(words) else ""
    if mark in ("!", "?") and (follows.islower() or words[last].after[1:2] in ("?", "!")):
        end += text[end:].startswith(mark)
    return words[first].start, end


def _refuse_odd_texts(prompt: str, words: Sequence[Word], names: Sequence[Name]) -> None:
    """Refuse texts to which the rules do not apply."""
    candidates = tuple(_texts(prompt, words, names))
    if not names:
        raise unclear_subject(prompt, (), "no part of it is written as a name")
    if has_sentences(words):
        raise unclear_subject(prompt, candidates, "it has more than one sentence")
    within = sum(name.last - name.first + 1 for name in names)
    if len(words) > 1 and (within == len(words) or prompt.isupper()):
        raise unclear_subject(prompt, candidates, "all of it is written as a name")
    if len(words) - max(name.last - name.first + 1 for name in names) > _MOST_AROUND:
        raise unclear_subject(prompt, candidates, "it says much else")


def _without_focus(words: Sequence[Word], names: list[Name]) -> list[Name]:
    """The names without what a question asks for: "German" in "Which German state is Ulm in?"."""
    return [name for name in names if not _is_focus(words, name)] or names


def _is_focus(words: Sequence[Word], name: Name) -> bool:
    asks = name.first > 0 and words[name.first - 1].lower in ("which", "what")
    return asks and (name.first <= 2 or "?" in words[-1].after)


def _only_name(words: Sequence[Word], name: Name) -> tuple[int, int] | None:
    indefinite = name.first > 0 and words[name.first - 1].lower in ("a", "an")  # "an Italian city" is no name
    if indefinite or _is_focus(words, name):
        return None
    name = _without_role(words, name)
    last = _right_edge(words, name)
    if last is None or not _left_edge_is_clear(words, name):
        return None
    if _opens_statement(words, name, last):
        return _with_small_word(words, name.first), last
    return (name.first, last) if _is_one_name(words, name, last) else None


def _grammatical_subject(words: Sequence[Word], names: Sequence[Name]) -> tuple[int, int] | None:
    """The name that a statement starts with, if its verb follows."""
    name = names[0]
    last = _right_edge(words, name)
    return (name.first, last) if last is not None and _opens_statement(words, name, last) else None


def _has_other_quotation(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether something is quoted beside the subject, which may be what the prompt is about."""
    return any(word.quoted and not first <= place <= last for place, word in enumerate(words))


def _right_edge(words: Sequence[Word], name: Name) -> int | None:
    """The last word of the name, with nouns such as "station" behind it; None if its end is not clear."""
    last, extended = name.last, 0
    while True:
        word = words[last]
        if word.possessive:
            return last if _owns_clearly(words, last) else None
        if ":" in word.after or ";" in word.after:
            return None
        if last + 1 == len(words):
            return last
        if word.after:  # behind a comma, a noun would be the next of a list
            return last if "," not in word.after or _is_known(words[last + 1]) else None
        follows = words[last + 1]
        if follows.lower in KINDS and not follows.possessive and extended < 2:
            last, extended = last + 1, extended + 1
            continue
        return last if _is_clear_end(words, name, last) else None


def _is_clear_end(words: Sequence[Word], name: Name, last: int) -> bool:
    """Whether the word behind `last` cannot belong to a name."""
    follows = words[last + 1].lower
    if words[last + 1].aside or follows == "the":  # "Dolly the sheep"
        return False
    asked = _is_question(words) and any(word.lower in AUXILIARIES for word in words[: name.first])
    if follows in ARTICLES:
        return asked  # "is Ulm a part of"
    if follows == "of":
        return last + 2 < len(words) and words[last + 2].lower in QUESTION_WORDS
    if follows in SMALL_WORDS:
        return not (asked and follows in _DO)  # in "does Sur do" it is no English word
    return follows in VERBS and not (asked and follows in FINITE)


def _is_known(word: Word) -> bool:
    """Whether a word is small or a verb, and no noun or name."""
    return word.capital or word.number or word.lower in SMALL_WORDS | VERBS


def _owns_clearly(words: Sequence[Word], last: int) -> bool:
    """Whether what belongs to the name is its property, and not another of whom the sentence goes on."""
    behind = words[last + 1 :]
    if not behind:
        return False
    does = any(word.lower in _DO for word in words[:last])
    if does and behind[0].lower in VERBS:  # "does Arnaud's belong": it is part of the name
        return False
    if behind[0].lower in KIN and len(behind) > 1 and behind[1].lower not in AUXILIARIES:
        return False
    return not behind[0].capital


def _without_role(words: Sequence[Word], name: Name) -> Name:
    """The name without a role in something: "the Mayor of London" is about London."""
    if not name.first or words[name.first - 1].lower != "the":
        return name
    place = name.first
    while place < name.last and (words[place].lower in ROLES or _is_acronym(words[place])):
        place += 1
    if place == name.first or words[place].lower != "of":
        return name
    place += 1 + (words[place + 1].lower == "the")
    return Name(place, name.last, name.doubts) if place <= name.last else name


def _is_acronym(word: Word) -> bool:
    return word.text.isupper() and len(word.text) <= 5


def _left_edge_is_clear(words: Sequence[Word], name: Name) -> bool:
    """Whether the name is no mere place or time of something else: "the cathedral in Moscow"."""
    before = name.first - 1
    if before > 0 and words[before].lower in ARTICLES:
        before -= 1
    if before <= 0 or words[before].lower not in _PLACING:
        return True
    acts = any(word.lower in _DO for word in words[:before])
    return words[before - 1].lower in SMALL_WORDS | VERBS and not acts


def _is_one_name(words: Sequence[Word], name: Name, last: int) -> bool:
    """Whether what could stand between two names stands in one here."""
    for doubt in name.doubts:
        if doubt == "," and "," not in words[last].after:
            continue
        if doubt == "'s" and words[name.first].possessive:
            continue
        return False
    return True


def _opens_statement(words: Sequence[Word], name: Name, last: int) -> bool:
    """Whether a statement starts with the name, and its verb follows: all before the verb is the subject."""
    first = _with_small_word(words, name.first)
    opens = first == 0 or (first == 1 and words[0].lower in ARTICLES)
    if not opens or _is_question(words) or words[last].after or last + 1 == len(words):
        return False
    follows = words[last + 1].lower
    verb = follows in AUXILIARIES or follows in VERBS
    return verb and not {",", "a year"}.intersection(name.doubts)


def _with_small_word(words: Sequence[Word], first: int) -> int:
    """The first word of a title such as "In Cold Blood", of which `first` is "Cold"."""
    return 0 if first == 1 and words[0].lower in PREPOSITIONS | _START_TITLES else first


def _is_question(words: Sequence[Word]) -> bool:
    asks = QUESTION_WORDS | AUXILIARIES
    starts = words[0].lower in asks or (
        len(words) > 1 and words[0].lower in PREPOSITIONS and words[1].lower in asks
    )
    return starts or "?" in words[-1].after


def _texts(prompt: str, words: Sequence[Word], names: Sequence[Name]) -> list[str]:
    places = (characters(prompt, words, name.first, name.last) for name in names)
    return list(dict.fromkeys(prompt[start:end] for start, end in places))


def _why(names: Sequence[Name]) -> str:
    return "it has several names" if len(names) > 1 else "it is not clear where the name starts and ends"
