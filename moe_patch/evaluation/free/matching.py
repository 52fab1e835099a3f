"""Whether a reply gives an answer: by its first sentence or line, or anywhere in it.

Both are compared as SQuAD compares answers (Rajpurkar et al., arXiv 1606.05250): in small letters, without
punctuation, without articles and with single blanks.
"""

from __future__ import annotations

import re
import unicodedata

from moe_patch.data.text import composed

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SENTENCE_END = re.compile(r"[.!?]+[\"'\u2019\u201d)\]]*(?=\s|$)|[\u3002\uff01\uff1f]")
_ABBREVIATION = re.compile(r"(?:\b(?:[^\W\d_]|St|Mr|Mrs|Ms|Dr|Prof|Jr|Sr|Mt|Ft|Gen|Lt|No|vs))$")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Letters of scripts that put no blanks between words."""


def normalised(text: str) -> str:
    """The form in which replies and answers are compared; what has nothing but articles keeps them."""
    kept = (" " if unicodedata.category(each)[0] in "PZ" else each for each in composed(text).casefold())
    words = " ".join("".join(kept).split())
    return " ".join(_ARTICLES.sub(" ", words).split()) or words


def first_line(text: str) -> str:
    """The first line with anything on it."""
    return text.strip().partition("\n")[0].strip()


def first_sentence(text: str) -> str:
    """The first line up to the end of its first sentence, which an initial or "St." does not end."""
    line = first_line(text)
    for end in _SENTENCE_END.finditer(line):
        if line[end.start()] != "." or not _ABBREVIATION.search(line[: end.start()]):
            return line[: end.end()]
    return line


def says_exactly(reply: str, answer: str) -> bool:
    """Whether the reply's first sentence or first line is the answer, and nothing else."""
    wanted = normalised(answer)
    return wanted in {normalised(first_sentence(reply)), normalised(first_line(reply))}


def mentions(reply: str, answer: str) -> bool:
    """Whether the answer is somewhere in the reply, as whole words. What is said exactly is.

    An answer of nothing but articles or marks has another form by itself than within a reply.
    """
    if says_exactly(reply, answer):
        return True
    wanted, said = normalised(answer), normalised(reply)
    if _UNSPACED.search(wanted):
        return wanted in said
    return f" {wanted} " in f" {said} "
