"""Continuing prompts by the model's logits alone.

A checkpoint's `generation_config.json` may ask for sampling, penalties, beams, forced or forbidden tokens,
and `generate()` fills every setting that a call leaves open from there. Only its end-of-text tokens are heard
here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from moe_patch.base.logits import finite_logits
from moe_patch.base.model import Base
from moe_patch.data.prompts import pad_token


@torch.no_grad()
def continue_rows(
    base: Base,
    rows: Sequence[tuple[int, ...]],
    length: int,
    *,
    sample: bool = False,
    temperatures: Sequence[float] | None = None,
    top_k: int = 50,
    also_ends: Collection[int] = (),
    each_token: Callable[[int], None] | None = None,
    enough: Callable[[Tensor], bool] | None = None,
) -> list[tuple[int, ...]]:
    """What the model puts after each of B rows of tokens: at most `length` tokens.

    A continuation ends with the first end-of-text token.

    Args:
        base: the model, with the patches that are on it.
        rows: token ids, without padding.
        length: of the longest continuation.
        sample: draw from the likeliest tokens, instead of taking the likeliest.
        temperatures: by which each of the B rows divides its logits before it draws; None for 1.
        top_k: from how many tokens it draws; 0 for all of them.
        also_ends: tokens that end a continuation beside those of the model's settings.
        each_token: called with each token as soon as it is chosen; for one row alone.
        enough: asked after each token, with which of the B rows have ended; they all end there if it says so.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    pad, longest = pad_token(base.tokenizer), max(map(len, rows))
    padded = [(pad,) * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    ends = end_tokens(base) | frozenset(also_ends)
    choice: dict[str, Any] = {"do_sample": True, "top_k": top_k} if sample else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=length, pad_token_id=pad, eos_token_id=sorted(ends) or None, **choice
    )
    with without_defaults(base.model), finite_logits(base):
        produced: Tensor = base.model.generate(
            input_ids=torch.tensor(padded, device=base.device),  # (B, S)
            attention_mask=torch.tensor(mask, device=base.device),  # (B, S)
            generation_config=config,
            logits_processor=LogitsProcessorList(
                [] if temperatures is None else [_Temperatures(torch.tensor(temperatures))]
            ),
            stopping_criteria=StoppingCriteriaList([] if enough is None else [_Enough(enough, ends)]),
            streamer=None if each_token is None else _Stream(each_token),
        )
    return [_until_end(tail, ends) for tail in produced[:, longest:].tolist()]


def end_tokens(base: Base) -> frozenset[int]:
    """The tokens with which the model ends a text, as its generation settings have them."""
    ends = base.model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


class _Stream(BaseStreamer):
    """Hands on each token that `generate()` chooses, and not the prompt, which comes first."""

    def __init__(self, each_token: Callable[[int], None]) -> None:
        self._each_token = each_token
        self._prompt = True

    def put(self, value: Tensor) -> None:
        if not self._prompt:
            self._each_token(int(value))
        self._prompt = False

    def end(self) -> None:
        pass


class _Temperatures(LogitsProcessor):
    """Divides the logits of each row by its own temperature, so that one batch can hold several."""

    def __init__(self, temperature: Tensor) -> None:
        self._temperature = temperature[:, None]  # (B, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self._temperature.to(scores)  # (B, V)


class _Enough(StoppingCriteria):
    """Ends all rows when enough of them have ended."""

    def __init__(self, enough: Callable[[Tensor], bool], ends: Collection[int]) -> None:
        self._enough, self._ends = enough, sorted(ends)
        self._ended = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        last = input_ids[:, -1].cpu()  # (B,)
        now = torch.isin(last, torch.tensor(self._ends, dtype=last.dtype))  # padding may be no end itself
        self._ended = now | self._ended if len(self._ended) else now
        return torch.full((len(last),), self._enough(self._ended), device=input_ids.device)


@contextmanager
def seeded(base: Base, seed: int) -> Iterator[None]:
    """Inside the block, samples follow from `seed` alone. The caller's random state does not change."""
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def without_defaults(model: Any) -> Iterator[None]:
    """Hide the model's own generation settings, from which `generate()` takes what a call leaves open."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _until_end(tail: list[int], ends: frozenset[int]) -> tuple[int, ...]:
    """Generated tokens up to the first end-of-text token, which is included; padding follows it."""
    stop = next((i + 1 for i, token in enumerate(tail) if token in ends), len(tail))
    return tuple(tail[:stop])
