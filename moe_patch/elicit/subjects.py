"""Other subjects for a prompt, proposed by the base: what it writes in the subject's place, and in lists.

Nothing here knows a language. A base continues the text before the subject, or a list of subjects; where that
gives too little, runs of words of any text that it writes are tried. Most proposals are poor. How well the
rest of the prompt follows a subject, by the base itself, tells which are good.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest

from moe_patch.base.decoding import seeded
from moe_patch.base.model import Base
from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.spacing import spaced
from moe_patch.data.text import comparable
from moe_patch.elicit.asking import write_on
from moe_patch.elicit.contexts import UNREADABLE

_PLACED = 64  # texts for all prompts together, as far as each has two
_MOST_PLACED = 32  # for one prompt
_SAMPLES = 8  # of a list, and of texts from the start
_TOKENS = 16  # of a text
_TEMPERATURE = 0.7  # proposals should be typical, not new
_OWN = 8  # proposals for a prompt's own place that come before others
_LISTED = 8  # subjects in a list that the base is to continue
_SEPARATORS = re.compile(r"[,;\u3001\uff0c\uff1b]|\s[-\u2013\u2014]\s")  # in lists
_SEVERAL = re.compile(r"[.!?]\s|[,;\u3001\u3002\uff01\uff0c\uff1b\uff1f]")  # what no subject has inside


def propose_subjects(base: Base, facts: Sequence[Fact], taken: Collection[str], seed: int) -> list[list[str]]:
    """Other subjects for each fact's prompt, most likely ones of the same kind first.

    Args:
        base: the model.
        facts: the facts.
        taken: subjects, in lower case; none of them, and no text with one, is proposed.
        seed: of the samples. The caller's random state does not change.

    Returns:
        a list for each fact: what the base writes in its subject's place, then what it writes elsewhere.
    """
    prompts, subjects = [fact.prompt for fact in facts], [fact.subject for fact in facts]
    with seeded(base, seed):
        placed = _in_place(base, prompts, subjects)
        listed = _in_lists(base, subjects)
        spans = _spans(base)
    pooled = [proposal for some in placed for proposal in some]
    found = []
    for number, (own, subject) in enumerate(zip(placed, subjects, strict=True)):
        longest = 2 * len(subject) + 16  # in characters
        others = [one for pair in zip_longest(listed, _turned(pooled, number)) for one in pair if one]
        kept = dict.fromkeys(map(_trimmed, [*_turned(own, number)[:_OWN], *others, *spans]))
        names = (each for each in kept if _is_name(each, taken) and len(each) <= longest)
        found.append([each for each in names if not (subject[:1].isupper() and each[0].islower())])
    return found


def _turned(items: Sequence[str], number: int) -> Sequence[str]:
    """The items from another one on for each number, so that prompts alike do not all get the same ones."""
    turn = 3 * number % len(items) if items else 0
    return [*items[turn:], *items[:turn]]


def _in_place(base: Base, prompts: Sequence[str], subjects: Sequence[str]) -> list[list[str]]:
    """What the base writes where each prompt has its subject; nothing for prompts that begin with it."""
    lefts = [prompt.partition(SLOT)[0].strip() for prompt in prompts]
    distinct = list(dict.fromkeys(filter(None, lefts)))
    rows = [base.reader.read_prompt(left, chat=False) for left in distinct]
    each = max(2, min(_MOST_PLACED, _PLACED // max(1, len(distinct))))
    texts = write_on(base, [row for row in rows for _ in range(each)], _TOKENS, temperature=_TEMPERATURE)
    written = {left: texts[n * each : (n + 1) * each] for n, left in enumerate(distinct)}
    return [
        [_cut(text, prompt, subject) for text in written.get(left, ())]
        for left, prompt, subject in zip(lefts, prompts, subjects, strict=True)
    ]


def _cut(text: str, prompt: str, subject: str) -> str:
    """The subject at the beginning of a text: up to the prompt's rest, or as long as the prompt's subject."""
    right = comparable(prompt.partition(SLOT)[2])
    before, found, _ = text.partition(right) if right else (text, "", "")
    return before if found else _beginning(text, len(subject.split()), len(subject))


def _beginning(text: str, words: int, characters: int) -> str:
    """The first words of a text, or its first characters if it has no blanks."""
    return " ".join(text.split()[:words]) if " " in text else text[:characters]


def _in_lists(base: Base, subjects: Sequence[str]) -> list[str]:
    """What the base adds to lists of the subjects."""
    distinct = list(dict.fromkeys(map(comparable, subjects)))
    text = ", ".join(spaced(distinct, _LISTED)) + ","
    row = base.reader.read_prompt(text, chat=False)
    texts = write_on(base, [row] * _SAMPLES, _TOKENS, temperature=_TEMPERATURE)
    longest = max(len(subject.split()) for subject in distinct) + 1  # words
    parts = [part for text in texts for part in _SEPARATORS.split(text)]
    return [part for part in parts if len(part.split()) <= longest]


def _spans(base: Base) -> list[str]:
    """Runs of one and two words of texts that the base writes from its start."""
    start = base.reader.read_start(chat=False)
    if not start:
        return []
    texts = write_on(base, [start] * _SAMPLES, _TOKENS, temperature=_TEMPERATURE)
    pairs = (text.split() for text in texts)
    return [run for words in pairs for run in _runs(words)]


def _runs(words: Sequence[str]) -> Iterator[str]:
    for first in range(1, len(words)):  # a text's first word has a capital, and means nothing
        yield words[first]
        if _is_wordy(words[first][-1]):
            yield " ".join(words[first : first + 2])


def _trimmed(text: str) -> str:
    """The text without what is no part of a word at its ends."""
    words = [place for place, one in enumerate(text) if _is_wordy(one)]
    return comparable(text[words[0] : words[-1] + 1]) if words else ""


def _is_wordy(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"  # letters, marks on them, numbers


def _is_name(text: str, taken: Collection[str]) -> bool:
    """Whether a proposal can be a subject that nobody edits, and is not more than one."""
    lowered = text.casefold()
    readable = any(map(str.isalpha, text)) and UNREADABLE not in text and SLOT not in text
    return (
        readable
        and not _SEVERAL.search(text)
        and not any(other in lowered or lowered in other for other in taken)
    )
