"""Asking the base in batches: what it writes after tokens, and how well the rest of a prompt suits it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.data.prompts import Prompt, pad_right, pad_token
from moe_patch.data.text import comparable
from moe_patch.solve.finite import check_finite, tokens_text

T = TypeVar("T")

_ROWS = 32  # in one pass


def write_on(
    base: Base, rows: Sequence[tuple[int, ...]], length: int, *, temperature: float | None = None
) -> list[str]:
    """What the base writes after each row: at most `length` tokens, as text with single blanks.

    Args:
        base: the model.
        rows: token ids.
        length: of the longest text in tokens.
        temperature: of samples; None for the likeliest tokens.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    tails = []
    for some in _batches(rows):
        heats = None if temperature is None else [temperature] * len(some)
        tails += continue_rows(base, some, length, sample=temperature is not None, temperatures=heats)
    return [comparable(str(base.tokenizer.decode(tail, skip_special_tokens=True))) for tail in tails]


@torch.no_grad()
def suit(base: Base, prompts: Sequence[Prompt]) -> list[float]:
    """How well the last tokens of each prompt, from `target` on, suit what is before them.

    Returns:
        for each prompt the mean log-probability of a token, in nats; 0 where no token is asked about.

    Raises:
        NumericalError: a log-probability is NaN or infinite.
    """
    return [value for some in _batches(prompts) for value in _suit_batch(base, some)]


def _suit_batch(base: Base, prompts: Sequence[Prompt]) -> list[float]:
    batch = pad_right(prompts, pad_token(base.tokenizer)).to(base.device)
    firsts = [max(1, len(each.ids) if each.target is None else each.target) for each in prompts]
    asked = [(row, place) for row, each in enumerate(prompts) for place in range(firsts[row], len(each.ids))]
    if not asked:
        return [0.0] * len(prompts)
    row, place = torch.tensor(asked).T  # (n,) each
    kept, column = (place - 1).unique(return_inverse=True)
    logits = base.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        logits_to_keep=kept.to(base.device),
        use_cache=False,
    ).logits  # (B, P, V)
    chosen = logits[row.to(logits.device), column.to(logits.device)].float()  # (n, V)
    answer = batch.ids.to(logits.device)[row.to(logits.device), place.to(logits.device)]
    loss = F.cross_entropy(chosen, answer, reduction="none").cpu()  # (n,)
    check_finite(
        loss, "the log-probabilities", lambda i: f"in {tokens_text(base.tokenizer, prompts[int(row[i])].ids)}"
    )
    counts = row.bincount(minlength=len(prompts)).clamp_min(1)
    total = loss.new_zeros(len(prompts)).index_add(0, row, loss)  # (B,)
    return [-value for value in (total / counts).tolist()]


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _ROWS] for start in range(0, len(items), _ROWS))
