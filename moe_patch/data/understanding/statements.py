"""Where the new answer of a whole sentence starts: "The capital of France is | Lyon."

The answer is what the sentence ends with: the name, the number or the noun behind its last small word or
verb. However it is split, prompt and answer together are the sentence, as the model should write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from moe_patch.data.understanding.names import Name, find_names, is_name
from moe_patch.data.understanding.vocabulary import (
    ARTICLES,
    AUXILIARIES,
    CONJUNCTIONS,
    FINITE,
    KINDS,
    MONTHS,
    NEGATIONS,
    PREPOSITIONS,
    QUESTION_WORDS,
    SMALL_WORDS,
    VERBS,
)
from moe_patch.data.understanding.words import LONGEST, Word, has_sentences, split_words
from moe_patch.errors import UnclearFact

AnswerBy = Literal["given", "arrow", "sentence", "model", "asked"]
"""How a new answer was found. The rules of this file find it in the sentence."""

_SHOWN = 100  # characters of a long text
_LONGEST_NOUN = 3  # words of an answer that is no name
_NO_ANSWER = frozenset({"yesterday", "tomorrow", "well", "soon"})
_KIND_BEFORE = KINDS | {"instrument", "profession", "position", "title", "channel", "network", "capital"}


@dataclass(frozen=True, slots=True)
class Split:
    """A sentence in two parts."""

    prompt: str
    answer: str
    by: AnswerBy


def split_sentence(sentence: str) -> Split:
    """The prompt and the new answer that a sentence states.

    Raises:
        UnclearFact: the sentence is a question, denies something, or it is not clear where the answer starts.
    """
    if len(sentence) > LONGEST:
        raise unclear_answer(f"{sentence[:_SHOWN]}...", (), f"it has more than {LONGEST:,} characters")
    words = split_words(sentence)
    _refuse_odd_sentences(sentence, words)
    first = _answer_start(words)
    if first is None or not _is_whole_complement(words, first):
        raise unclear_answer(sentence, _possible_answers(sentence, words), "no name, number or noun ends it")
    if _is_reversible(words, first):
        why = "it can be meant of the first or of the last name"
        raise unclear_answer(sentence, _possible_answers(sentence, words), why)
    return split_at(sentence, words[first].start, "sentence")


def split_at(sentence: str, start: int, by: AnswerBy) -> Split:
    """The sentence with its answer from a character on, without the full stop."""
    return Split(sentence[:start].rstrip(), without_stop(sentence[start:]), by)


def without_stop(answer: str) -> str:
    """An answer without the full stop of the sentence that it ends; one of an abbreviation stays."""
    answer = answer.strip()
    words = split_words(answer[-_SHOWN:])
    stops = sum(words[-1].after.count(mark) for mark in ".!") if words else 0
    return answer[:-1].rstrip() if stops == 1 and answer.endswith((".", "!")) else answer


def possible_starts(sentence: str) -> list[int]:
    """The characters where an answer could start: at names, numbers and nouns behind small words or verbs."""
    words = split_words(sentence) if len(sentence) <= LONGEST else []
    return [
        word.start
        for before, word in list(pairwise(words))[1:]
        if _leads_to_answer(before) and (word.capital or word.lower not in SMALL_WORDS | VERBS)
    ]


def unclear_answer(sentence: str, candidates: tuple[str, ...], why: str) -> UnclearFact:
    """The error for a sentence whose answer is not clear, with what to do about it."""
    could = f", it could be {' or '.join(map(repr, candidates))}" if candidates else ""
    return UnclearFact(
        f"unclear in {sentence!r}{could}: {why}; write -> before the answer, or prompt and answer apart",
        field="target_new",
        candidates=candidates,
    )


def _refuse_odd_sentences(sentence: str, words: Sequence[Word]) -> None:
    why = None
    if not words:
        why = "it has no words"
    elif _is_question(words):
        why = "it is a question; expected a statement, or `Q: ... A: ...`"
    elif any(word.lower in NEGATIONS or word.lower.endswith("n't") for word in words):
        why = "it says what is not so"
    elif sentence.count('"') % 2:
        why = "a quotation has no end"
    elif has_sentences(words) or any(";" in word.after for word in words):
        why = "it has more than one sentence"
    elif _joins_statements(words):
        why = "it says more than one thing"
    if why:
        raise unclear_answer(sentence, (), why)


def _is_question(words: Sequence[Word]) -> bool:
    """Whether it asks, and does not go on with a statement."""
    asks = words[0].lower in QUESTION_WORDS | AUXILIARIES and not is_name(words, 0)
    return "?" in words[-1].after or (asks and not any("?" in word.after for word in words))


def _joins_statements(words: Sequence[Word]) -> bool:
    """Whether a conjunction stands outside of names."""
    names = find_names(words)
    joins = (place for place, word in enumerate(words) if word.text in CONJUNCTIONS)
    return any(not any(name.first < place < name.last for name in names) for place in joins)


def _answer_start(words: Sequence[Word]) -> int | None:
    """The index of the answer's first word."""
    first = _name_at_end(words)
    if first is None:
        first = _number_at_end(words)
    if first is None:
        first = _noun_at_end(words)
    return first if first is not None and first > 1 else None


def _name_at_end(words: Sequence[Word]) -> int | None:
    """The name that ends the sentence, if it is clear where it starts."""
    names = find_names(words)
    if not names or names[-1].last != len(words) - 1:
        return None
    name = names[-1]
    if name.doubts and not _is_place_with_its_country(words, name):
        return None
    return name.first if name.first and _leads_to_answer(words[name.first - 1]) else None


def _is_place_with_its_country(words: Sequence[Word], name: Name) -> bool:
    """Whether the only doubt is a comma between two parts: "Paris, Texas"."""
    return name.doubts == (",",) and "," not in words[name.first - 1].after


def _number_at_end(words: Sequence[Word]) -> int | None:
    """The number or date that ends the sentence, with its unit."""
    units = 0
    while units < 2 and _is_plain(words[-1 - units]) and words[-1 - units].lower not in MONTHS:
        units += 1
        if len(words) <= units + 1:
            return None
    first = len(words) - units
    while first > 0 and (words[first - 1].number or words[first - 1].lower in MONTHS):
        first -= 1
    if first == len(words) - units or not any(word.number for word in words[first:]):
        return None
    return first if _leads_to_answer(words[first - 1]) else None


def _noun_at_end(words: Sequence[Word]) -> int | None:
    """The noun that ends the sentence, behind its last small word or verb."""
    first = len(words)
    while first > 0 and _is_plain(words[first - 1]):
        first -= 1
    length = len(words) - first
    if not 0 < length <= _LONGEST_NOUN or first == 0:
        return None
    if words[-1].lower.endswith("ly") or words[-1].lower in _NO_ANSWER:
        return None
    while first < len(words) - 1 and words[first].lower in _KIND_BEFORE:  # "the position goaltender"
        first += 1
    if any("," in word.after for word in words[first:]) or not _leads_to_answer(words[first - 1]):
        return None
    return None if _belongs_to_noun(words, first - 1) else first


def _belongs_to_noun(words: Sequence[Word], place: int) -> bool:
    """Whether a verb may belong to the noun behind it, as in "is organized crime"."""
    word, before = words[place], words[place - 1]
    if place == 0 or word.lower in SMALL_WORDS | FINITE or word.lower not in VERBS:
        return False
    return before.lower in SMALL_WORDS or (_is_plain(before) and not before.lower.endswith("ly"))


def _leads_to_answer(word: Word) -> bool:
    """Whether a word can stand before an answer, and is no part of it."""
    return not word.capital and word.lower in SMALL_WORDS | VERBS | _KIND_BEFORE


def _is_whole_complement(words: Sequence[Word], first: int) -> bool:
    """Whether nothing behind the last verb could be part of the answer, as in "is history of | religions"."""
    acts = [
        place
        for place in range(first)
        if words[place].lower in AUXILIARIES | VERBS and not is_name(words, place)
    ]
    if not acts or acts[-1] + 1 == first:
        return True
    between = words[acts[-1] + 1 : first]
    named = any(word.capital or word.number or word.quoted for word in between)
    return not named and between[0].lower in SMALL_WORDS


def _is_plain(word: Word) -> bool:
    """Whether a word is neither small, nor a verb, nor written as a name or number."""
    known = word.lower in SMALL_WORDS or (word.lower in VERBS and word.lower not in KINDS)
    return not (known or word.capital or word.number or word.aside or word.quoted)


def _is_reversible(words: Sequence[Word], first: int) -> bool:
    """Whether it says that one name is *the* something of another, as in "Lyon is the capital of France".

    Someone who writes so may want to change what is said of Lyon, or what is said of France.
    """
    verbs = [place for place in range(first) if words[place].lower in AUXILIARIES]
    if not verbs or verbs[0] + 1 >= first:
        return False
    left = words[: verbs[0]]
    definite = words[verbs[0] + 1].lower == "the" and is_name(words, first)
    return (
        definite
        and words[first - 1].lower in {"of"} | ARTICLES
        and not any(word.lower in PREPOSITIONS or word.possessive for word in left)
    )


def _possible_answers(sentence: str, words: Sequence[Word]) -> tuple[str, ...]:
    starts = [word.start for word in words[2:] if _is_plain(word) or word.capital or word.number]
    return tuple(without_stop(sentence[start:]) for start in starts[-2:])
