"""Prefixes written by the model itself. An edited prompt should give the same answer after each of them.

MEMIT (arXiv 2210.07229, in its code) samples them from a few openings, so that an edit also works if the
subject is not at the start of the text. Those of `written_contexts` start where the model's own texts do, in
whatever language it has learned, and serve to ask about an edit what its search has not seen.
"""

from __future__ import annotations

import re
import unicodedata

from moe_patch.base.decoding import continue_rows, seeded
from moe_patch.base.model import Base
from moe_patch.data.facts import SLOT
from moe_patch.data.text import comparable
from moe_patch.errors import PromptError

_OPENINGS = ("The", "Therefore", "Because", "I", "You")
_ROUNDS = 3  # of samples, for contexts that can be read
_END = re.compile(  # of a sentence, in Latin, Arabic, Indic and East Asian scripts
    r"[.!?\u2026\u061f\u06d4\u0964]+[\"'\u201d\u2019\u00bb)\]]*(?=\s|$)|[\u3002\uff01\uff1f]"
)
_FIRST = frozenset({"Lu", "Lt", "Lo", "Nd"})  # Unicode's categories of capitals, other letters and digits
_SHORTEST = 8  # characters of a sentence

UNREADABLE = "\ufffd"
"""What a tokenizer decodes a part of a character to."""


def generate_contexts(base: Base, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """Sampled continuations of a few openings, each ending in ". " so that a prompt can follow.

    Args:
        base: the model that writes them.
        count: how many.
        tokens: new tokens in each.
        seed: of the samples. The caller's random state does not change.

    Raises:
        PromptError: the model has no positions for so many tokens.
    """
    if count == 0:
        return ()
    texts = []
    with seeded(base, seed):
        for number in range(count):
            opening = base.reader.read_prompt(_OPENINGS[number % len(_OPENINGS)], chat=False)
            base.reader.check_room(opening, tokens, "a generated context")
            (written,) = continue_rows(base, [opening], tokens, sample=True)
            text = base.tokenizer.decode([*opening, *written], skip_special_tokens=True)
            texts.append(f"{' '.join(text.split())}. ")
    return tuple(texts)


def written_contexts(
    base: Base, count: int, tokens: int, seed: int, *, chat: bool = False
) -> tuple[str, ...]:
    """Beginnings of texts as the model writes them, each ending so that a prompt can follow.

    They are beginnings of a user's message if the tokenizer has a chat template: models that were trained
    on chats write little else from another start. Those that look like the beginning of a sentence are
    preferred, and among the others those of whole characters. A model that writes no text gives none.

    Args:
        base: the model that writes them.
        count: how many at most; they differ.
        tokens: new tokens in each.
        seed: of the samples. The caller's random state does not change.
        chat: whether there has to be a chat template.

    Raises:
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        PromptError: the model has no positions for so many tokens.
    """
    start = _start(base, chat)
    rows = [start or base.reader.read_prompt(opening, chat=False) for opening in _OPENINGS]
    for row in rows:
        base.reader.check_room(row, tokens, "a generated context")
    rows = [rows[number % len(rows)] for number in range(count)]
    found: dict[str, bool] = {}  # in order, each once; whether it is as it should be
    with seeded(base, seed):
        for _ in range(_ROUNDS if count else 0):
            for row, tail in zip(rows, continue_rows(base, rows, tokens, sample=True), strict=True):
                ids = tail if start else row + tail
                text = comparable(str(base.tokenizer.decode(ids, skip_special_tokens=True)))
                if text and SLOT not in text:
                    found[_ended(text)] = _is_beginning(text) and UNREADABLE not in text
            if sum(found.values()) >= count:
                break
    return tuple(sorted(found, key=lambda text: (not found[text], UNREADABLE in text))[:count])


def _start(base: Base, chat: bool) -> tuple[int, ...]:
    """The tokens before a user's message, or else before a text."""
    if chat:
        return base.reader.read_start(chat=True)
    try:
        return base.reader.read_start(chat=True)
    except PromptError:  # no template, or one that cannot be used: texts start without it
        return base.reader.read_start(chat=False)


def _is_beginning(text: str) -> bool:
    """Whether a text begins as sentences do: with a capital, a number or a letter that has no case."""
    first = text.lstrip("\"'(\u00ab\u201c\u2018\u201e\u00bf\u00a1\u300c")[:1]
    return bool(first) and unicodedata.category(first) in _FIRST


def _ended(text: str) -> str:
    """The text up to the end of its last whole sentence; if there is none to speak of, made one sentence."""
    last = max((found.end() for found in _END.finditer(text)), default=0)
    return f"{text[:last]} " if last >= min(_SHORTEST, len(text)) else f"{text}. "
