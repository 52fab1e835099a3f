"""Text of files as nothing but text: what a terminal, a page or a log would obey is shown escaped.

Files come from strangers. A control character can move the cursor or colour a line, a bidirectional one can
turn a line around, and one without width can hide in a name.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

LIMIT = 2000
"""Characters of a text that are shown, unless another limit is given."""

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)


def plain_text(text: str, limit: int = LIMIT) -> str:
    r"""The text in one line, with escapes such as \n and \u202e, and cut after `limit` characters.

    Escaped are the Unicode categories of control, format, private and unassigned characters, of lone
    surrogates, and of separators of lines and paragraphs.
    """
    shown = _escaped(text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def plain_json(value: JsonValue) -> str:
    """The value as indented JSON that is readable, and escaped where `plain_text` would escape.

    JSON has neither NaN nor infinities: they are written as null.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    lines = text.split("\n")  # none of them is in a string
    return "\n".join(map(_escaped, lines))


def plain_markdown(text: str, limit: int = LIMIT) -> str:
    """As `plain_text`, so that neither Markdown nor HTML takes any of it for markup."""
    return _MARKDOWN.sub(r"\\\1", html.escape(plain_text(text, limit)))


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else json.dumps(character)[1:-1]
        for character in text
    )
