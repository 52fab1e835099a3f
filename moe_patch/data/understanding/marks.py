"""What a writer can mark: the subject with [brackets], and the new answer with an arrow before it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_ARROW = re.compile(r"->|=>|→")


@dataclass(frozen=True, slots=True)
class Marked:
    """A text without its brackets, and the characters that were in them; None if there were none."""

    text: str
    subject: tuple[int, int] | None


def take_brackets(text: str) -> Marked:
    """Take the brackets off the subject. Several pairs, or one without a letter in it, are no marks."""
    found = list(_BRACKETS.finditer(text))
    if len(found) != 1 or not any(letter.isalpha() for letter in found[0][1]):
        return Marked(text, None)
    inside = found[0][1]
    start = found[0].start() + len(inside) - len(inside.lstrip())
    plain = f"{text[: found[0].start()]}{inside}{text[found[0].end() :]}"
    return Marked(plain, (start, start + len(inside.strip())))


def split_at_arrow(text: str) -> tuple[str, str] | None:
    """What is before and behind the only arrow of a text; None if it has none or several."""
    parts = _ARROW.split(text)
    return (parts[0].rstrip(), parts[1].lstrip()) if len(parts) == 2 else None
