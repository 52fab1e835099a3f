"""Texts that a base writes itself: drawn from its start token, and from its chat template if it has one.

What a model writes is what it is used for, so its own text shows which directions of its experts are in use.
Loops are left out: they are one sentence many times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile

import torch
from torch import Tensor

from moe_patch.base.decoding import continue_rows, end_tokens, seeded
from moe_patch.base.model import Base
from moe_patch.data.text import composed
from moe_patch.errors import NoChatTemplate, PromptError

logger = logging.getLogger(__name__)

TEMPERATURES = (0.7, 1.0, 1.2)
"""Of the texts in turn: what the model says when it is careful, as it was trained, and when it is not."""

ROWS_PER_PASS = 256
"""Texts that are written together."""

_MESSAGE = 48  # tokens of a user's message
_ENDED = 0.5  # share of the rows of a pass; then they leave it, and the others are read once more
_LOOP = 0.5  # share of distinct runs of three tokens, below which a text repeats itself
_TOO_SHORT_TO_LOOP = 24  # tokens
_TOKENS_ASKED = 64  # drawn from the vocabulary, to see what usually comes next

Row = tuple[int, ...]

Wrote = Callable[[int], None]
"""Called with the number of tokens that a step has added."""


def write_texts(base: Base, count: int, seed: int, *, length: int, wrote: Wrote | None = None) -> list[str]:
    """At most `count` texts of up to `length` tokens, from the base's start of a text.

    Args:
        base: the model.
        count: how many are begun; loops, repeated and empty texts are left out.
        seed: of the samples. The caller's random state does not change.
        length: of the longest text in tokens.
        wrote: called after each token of a pass.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    start = base.reader.read_start(chat=False)
    with seeded(base, seed):
        begun = [start] * count if start else [(token,) for token in _first_tokens(base, count)]
        rows = continue_until_end(base, begun, length, wrote)
    return row_texts(base, [row[len(start) :] for row in rows])


def write_exchanges(
    base: Base, count: int, seed: int, *, length: int, wrote: Wrote | None = None
) -> list[str]:
    """At most `count` exchanges in the base's chat template; none if it has no template that can be used.

    The base writes the user's message after the template's opening of it, and then the answer. A text has the
    template's special tokens in it, from which the tokenizer makes the same tokens again.

    Args:
        base: the model.
        count: how many are begun; loops, repeated and empty messages are left out.
        seed: of the samples. The caller's random state does not change.
        length: of the longest message, and of the longest answer, in tokens.
        wrote: called after each token of a pass.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    asking = _before_message(base)
    if not asking:
        return []
    with seeded(base, seed):
        asked = continue_until_end(base, [asking] * count, min(length, _MESSAGE), wrote)
        messages = _distinct(_prose(base, row[len(asking) :]) for row in asked if not is_loop(row))
        begun = [row for message in messages if (row := _question(base, message))]
        rows = continue_until_end(base, begun, length, wrote)
    before = base.reader.before_text()
    kept = (row[len(before) :] if row[: len(before)] == before else row for row in rows if not is_loop(row))
    return _distinct(_as_read(base, row) for row in kept)


def continue_until_end(base: Base, rows: Sequence[Row], length: int, wrote: Wrote | None = None) -> list[Row]:
    """Rows of tokens, each with what the base puts after it: up to its end, or `length` tokens.

    The rows take the temperatures in turn. When half of a pass has ended, the others go on in a smaller one.
    Call it inside `seeded`.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    found = list(rows)
    for first in range(0, len(rows), ROWS_PER_PASS):
        _continue_pass(base, found, [*range(len(rows))[first : first + ROWS_PER_PASS]], length, wrote)
    return found


def _continue_pass(base: Base, found: list[Row], active: list[int], length: int, wrote: Wrote | None) -> None:
    """Continue those of the rows whose numbers are `active`, in place."""
    ends, room = end_tokens(base), base.reader.positions

    def enough(ended: Tensor) -> bool:
        if wrote is not None:
            wrote(int((~ended).sum()))
        return float(ended.float().mean()) >= _ENDED

    while length:
        active = [i for i in active if room is None or len(found[i]) < room]
        if not active:
            return
        begun = [found[i] for i in active]
        step = length if room is None else min(length, room - max(map(len, begun)))
        heats = [TEMPERATURES[i % len(TEMPERATURES)] for i in active]
        tails = continue_rows(base, begun, step, sample=True, temperatures=heats, top_k=0, enough=enough)
        for i, tail in zip(active, tails, strict=True):
            found[i] += tail
        length -= max(map(len, tails))
        active = [i for i in active if found[i][-1] not in ends]


def row_texts(base: Base, rows: Iterable[Row]) -> list[str]:
    """The texts of rows without their start, up to special tokens; without loops, repeats and empty ones."""
    return _distinct(_prose(base, row) for row in rows if not is_loop(row))


def is_loop(row: Sequence[int]) -> bool:
    """Whether a text says the same again and again."""
    runs = list(zip(row, islice(row, 1, None), islice(row, 2, None), strict=False))
    return len(row) >= _TOO_SHORT_TO_LOOP and len(set(runs)) < _LOOP * len(runs)


@torch.no_grad()
def _first_tokens(base: Base, count: int) -> list[int]:
    """First tokens drawn from what the base puts, on average, after any one token of its vocabulary."""
    rows = base.reader.rows or len(base.tokenizer)
    anything = torch.randint(rows, (_TOKENS_ASKED, 1))
    logits = base.model(input_ids=anything.to(base.device), use_cache=False).logits[:, -1]  # (n, V)
    chances = logits.float().softmax(-1).mean(0)[:rows].cpu()  # (V,)
    return [int(token) for token in torch.multinomial(chances, count, replacement=True)]


def _before_message(base: Base) -> Row:
    """The tokens of the chat template before a user's message; empty if there are none to begin with."""
    try:
        return base.reader.read_start(chat=True)
    except NoChatTemplate:
        return ()
    except PromptError as error:
        logger.info("the base writes no exchanges in its chat template: %s", error)
        return ()


def _question(base: Base, message: str) -> Row:
    """The tokens after which the base answers a message; empty if the template or the model refuses it."""
    try:
        return base.reader.read_question(message, chat=True)
    except PromptError as error:
        logger.debug("a message of the base's own is left out: %s", error)
        return ()


def _prose(base: Base, row: Row) -> str:
    """The text of a row up to its first special token: no user writes these."""
    special = end_tokens(base) | set(base.tokenizer.all_special_ids)
    return _decoded(base, list(takewhile(lambda token: token not in special, row)))


def _as_read(base: Base, row: Row) -> str:
    """The text of a row from which the tokenizer makes the same row again, without the token that ends it."""
    return _decoded(base, list(row[:-1] if row[-1] in end_tokens(base) else row))


def _decoded(base: Base, ids: list[int]) -> str:
    text = base.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return composed(text).strip()


def _distinct(texts: Iterable[str]) -> list[str]:
    """The texts in order, without empty ones and repeats."""
    return [text for text in dict.fromkeys(texts) if text]
