"""Words around numbers and names in what people read: plurals, and names that were perhaps meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 3  # close names in a message


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 fact", "2,000 facts". `plural` is for nouns that do not just take an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are spelled nearly as `name`, the closest first; capitals do not count."""
    by_lower = {one.lower(): one for one in known}
    return [by_lower[one] for one in get_close_matches(name.lower(), by_lower, n=_SHOWN)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'moeedit'?" to end a message with, or nothing if no known name is close."""
    close = close_names(name, known)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
