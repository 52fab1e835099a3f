"""What several lines of a file have in common: the same words around different subjects.

"In which county is {} located?" stands in many lines, and in most of them it is clear what the name is. The
others can then be read too, whatever their subjects look like.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from moe_patch.data.understanding.names import Name, find_names
from moe_patch.data.understanding.subjects import Place, characters, unclear_subject
from moe_patch.data.understanding.vocabulary import (
    ARTICLES,
    AUXILIARIES,
    CONJUNCTIONS,
    PREPOSITIONS,
    QUESTION_WORDS,
    SMALL_WORDS,
    VERBS,
)
from moe_patch.data.understanding.words import LONGEST, Word, split_words

LEAST = 3
"""Different subjects that must stand between the same words, before these are a template."""

_MOST_WORDS = 60  # in a longer prompt, no template is looked for
_CLAUSE = AUXILIARIES | QUESTION_WORDS | {"that", "because", "if"}

Around = tuple[str, str]
"""The text before a subject and the text behind it."""


class Templates:
    """The words around subjects, each with the different subjects that were seen there."""

    def __init__(self) -> None:
        self._subjects: dict[Around, set[str]] = defaultdict(set)

    def add(self, prompt: str, start: int, end: int) -> None:
        """Learn from a prompt whose subject is known."""
        self._subjects[prompt[:start], prompt[end:]].add(prompt[start:end])

    def place(self, prompt: str) -> Place | None:
        """Where the subject is, if the words around it are those of at least `LEAST` other subjects.

        Of several templates that fit, the one with the longest subject is taken.

        Raises:
            UnclearFact: they fit in ways that exclude each other.
        """
        words = _words_of(prompt)
        found = [
            (start, end)
            for start, end in _spans(words)
            if len(self._subjects.get((prompt[:start], prompt[end:]), ())) >= LEAST
            and _could_be_subject(prompt[start:end], opens=start == 0)
        ]
        if not found:
            return None
        start, end = max(found, key=lambda span: span[1] - span[0])
        if any(not (start <= first and last <= end) for first, last in found):
            texts = tuple(prompt[first:last] for first, last in found)
            raise unclear_subject(prompt, texts, "other lines have other subjects between the same words")
        return Place(start, end, "other lines")


def learn_from_names(prompts: Iterable[str], templates: Templates) -> None:
    """Learn from prompts whose subject is not clear by itself: names that differ between the same words.

    A prompt teaches nothing if two of its names do so, as those of a table of countries and their rulers do.
    """
    seen: dict[Around, set[str]] = defaultdict(set)
    all_spans = []
    for prompt in prompts:
        words = _words_of(prompt)
        spans = [
            characters(prompt, words, name.first, name.last)
            for name in find_names(words)
            if _is_bounded(words, name)
        ]
        all_spans.append((prompt, spans))
        for start, end in spans:
            seen[prompt[:start], prompt[end:]].add(prompt[start:end])
    for prompt, spans in all_spans:
        shared = [span for span in spans if len(seen[prompt[: span[0]], prompt[span[1] :]]) >= LEAST]
        if len(shared) == 1:
            templates.add(prompt, *shared[0])


def _words_of(prompt: str) -> list[Word]:
    """The words of a prompt, or none of one that is too long for a template."""
    words = split_words(prompt) if len(prompt) <= LONGEST else []
    return words if len(words) <= _MOST_WORDS else []


def _spans(words: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Start and end of every run of words that leaves a word beside it."""
    for first in range(len(words)):
        for last in range(first, len(words)):
            if last - first + 1 < len(words):
                yield characters("", words, first, last)


def _could_be_subject(text: str, *, opens: bool) -> bool:
    """Whether a text between the words of a template is a name or a noun, and no clause."""
    words = split_words(text)
    if any(word.lower in _CLAUSE and not word.quoted and word.text.islower() for word in words):
        return False
    joins = CONJUNCTIONS | PREPOSITIONS
    if any(word.lower in joins and word.text.islower() for word in (words[0], words[-1])):
        return False
    related = opens and words[0].lower in ARTICLES and any(word.text == "of" for word in words)
    return not related  # "The capital of France" opens a sentence, and is not its subject


def _is_bounded(words: Sequence[Word], name: Name) -> bool:
    """Whether a name has the small words around it that English has around one."""
    around = [*words[: name.first], *words[name.last + 1 :]]
    small = sum(word.lower in SMALL_WORDS for word in around)
    before = words[name.first - 1].lower if name.first else "of"
    if name.doubts or small < min(2, len(around)) or before not in SMALL_WORDS | VERBS:
        return False
    if name.last + 1 == len(words) or words[name.last].after:
        return True
    return words[name.last + 1].lower in SMALL_WORDS | VERBS
