"""METEOR with exact and stem matching (Banerjee & Lavie, 2005): how similar an answer and a reference are."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import Any

from moe_patch.errors import ConfigError


def meteor_score(predicted: str, reference: str, language: str = "en") -> float:
    """F (1 - penalty), from 0 to 1, with F = 10 P R / (R + 9 P) and penalty = (chunks / matches)^3 / 2.

    P and R are the shares of the predicted words and of the reference's words that are matched: first equal
    words, then words with equal stems. A chunk is a run of matches that are adjacent in both texts.

    Raises:
        ConfigError: the package for stems is not installed, or lacks the language.
    """
    said, wanted = _words(predicted), _words(reference)
    matched = _align(said, wanted, language)
    if not matched:
        return 0.0
    precision, recall = len(matched) / len(said), len(matched) / len(wanted)
    f_mean = 10 * precision * recall / (recall + 9 * precision)
    places = sorted(matched.items())
    chunks = 1 + sum(after != (before[0] + 1, before[1] + 1) for before, after in pairwise(places))
    return f_mean * (1 - 0.5 * (chunks / len(matched)) ** 3)


def _align(said: list[str], wanted: list[str], language: str) -> dict[int, int]:
    """For each matched word of `said`, its word of `wanted`; runs are as long as a greedy search finds."""
    matched: dict[int, int] = {}
    stemmer = _stemmer(language)
    for form in (lambda word: word, stemmer.stemWord):
        left, right = [form(word) for word in said], [form(word) for word in wanted]
        for place, word in enumerate(left):
            if place in matched:
                continue
            free = [i for i, other in enumerate(right) if other == word and i not in matched.values()]
            if free:
                following = matched.get(place - 1, -2) + 1
                matched[place] = following if following in free else free[0]
    return matched


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@cache
def _stemmer(language: str) -> Any:
    try:
        import snowballstemmer  # noqa: PLC0415  (the memoe extra)
    except ImportError as error:
        raise ConfigError("METEOR needs a stemmer: install moe-patch[memoe]") from error
    names = {"en": "porter"}  # METEOR was published with this one
    algorithm = names.get(language, language)
    try:
        return snowballstemmer.stemmer(algorithm)
    except KeyError as error:
        known = ", ".join(["en", *snowballstemmer.algorithms()])
        raise ConfigError(
            f"there is no stemmer for the language {language!r}: expected one of {known}"
        ) from error
