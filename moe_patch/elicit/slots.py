"""Where a sentence may state a fact: a subject, what is said of it, and an answer that is easy to guess."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_patch.data.facts import SLOT
from moe_patch.data.text import comparable
from moe_patch.elicit.statements import Statement, Word

LONGEST = 4  # words of an answer
_LONGEST = 6  # words of a name
_JOINING = 2  # words between two parts of a name
_SHORT = 3  # characters of a word within a name, such as "of"
_SURE = math.log(0.3)  # least log-probability of an answer's first word
_SURER = math.log(0.7)  # and of each word that continues it
_SURPRISING = math.log(0.2)  # a subject's first word is no likelier than this
_PER_SENTENCE = 2  # answers
_NAME = re.compile("[^'\u2019]{2}|.['\u2019][^a-z]")  # not "I'm", but "O'Brien"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt with a subject and an answer, which may be a fact."""

    prompt: str  # with one `{}`
    subject: str
    answer: str

    def about(self, subject: str) -> str:
        """The prompt with another subject."""
        return self.prompt.replace(SLOT, subject)


@dataclass(frozen=True, slots=True)
class Usage:
    """How words are used in a base's sentences."""

    often: Counter[str]  # in how many sentences a word occurs
    inside: frozenset[str]  # words with a capital that stand behind the first one of a sentence
    cased: bool  # whether names are written with capitals

    @classmethod
    def of(cls, statements: Sequence[Statement]) -> Usage:
        """The usage in these statements."""
        each = [[word.of(said.text) for word in said.words] for said in statements]
        often = Counter(word for words in each for word in set(words))
        inside = frozenset(word for words in each for word in words[1:] if word[0].isupper())
        return cls(often, inside, any(word[0].isupper() and word.lower() not in often for word in often))

    def names(self, text: str, words: Sequence[Word]) -> list[bool]:
        """Whether each word may be part of a name: with a capital that no sentence's beginning explains.

        A first word has such a one if it has a capital within other sentences too, if the name goes on, or if
        no sentence has a capital within it. A single letter is no name, as in "I'm" and unlike "O'Brien".
        Where there are no capitals, any word may be one.
        """
        if not self.cased:
            return [True] * len(words)
        own = [word.of(text) for word in words]
        capital = [word[0].isupper() and _NAME.match(word) is not None for word in own]
        if capital and capital[0]:
            goes_on = not words[0].closed and any(capital[1:2])
            known = goes_on or own[0] in self.inside or not self.inside
            capital[0] = known and own[0].lower() not in self.often
        return capital


def candidates(said: Statement, usage: Usage) -> Iterator[Candidate]:
    """What may be facts in a statement, those first whose answers occur in few other sentences."""
    words, text = said.words, said.text
    names = usage.names(text, words)
    answers = [
        (usage.often[word.of(text)], -i, i)
        for i, word in enumerate(words)
        if word.greedy and word.logprob >= _SURE and not (usage.cased and names[i] and names[i - 1])
    ]
    left = _PER_SENTENCE
    for _, _, i in sorted(answers):
        found = _candidate(text, words, names, i, _LONGEST if usage.cased else 1)
        if found is not None and left:
            left -= 1
            yield found


def _candidate(
    text: str, words: Sequence[Word], names: Sequence[bool], at: int, longest: int
) -> Candidate | None:
    """The candidate whose answer starts with a word; None if there is no subject, or no word between them."""
    subject = _subject(words, names, at, longest)
    start = words[at].start
    if subject is None or subject[1] >= at or text[start - 1] != " ":
        return None
    first, last = words[subject[0]].start, words[subject[1] - 1].end
    name, answer = text[first:last], text[start : _answer_end(words, at)]
    prompt = text[:first] + SLOT + text[last:start].rstrip()
    said_before = comparable(answer).lower() in comparable(text[:start]).lower()
    return None if name in prompt or said_before else Candidate(prompt, name, answer)


def _answer_end(words: Sequence[Word], first: int) -> int:
    """The character at which an answer ends that starts with a word; it goes on while the base is sure."""
    last = first
    for i in range(first + 1, min(len(words), first + LONGEST)):
        if words[last].closed or not words[i].greedy or words[i].logprob < _SURER:
            break
        last = i
    return words[last].end


def _subject(
    words: Sequence[Word], names: Sequence[bool], before: int, longest: int
) -> tuple[int, int] | None:
    """The first word, and the one after the last, of the most surprising name that begins before a word."""
    best, found = 0.0, None
    for first in range(before):
        if words[first].logprob > _SURPRISING or not names[first]:
            continue
        last = _name_end(words[:before], names, first) if longest > 1 else first + 1
        surprise = -sum(each.logprob for each in words[first:last] if each.logprob > -math.inf)
        if last - first <= longest and surprise >= best:
            best, found = surprise, (first, last)
    return found


def _name_end(words: Sequence[Word], names: Sequence[bool], first: int) -> int:
    """The word behind a name. Short words may join its parts, as in "Democratic Republic of the Congo"."""
    last = after = first + 1
    while after < len(words) and not words[after - 1].closed and after - last <= _JOINING:
        short = words[after].end - words[after].start <= _SHORT
        if not names[after] and not short:
            break
        after += 1
        last = after if names[after - 1] else last
    return last
