"""The routing decision of a request: the tokens that it depends on, where it is stored, and where it acts.

The decision is made in the first pass that fills a cache of keys and values, from the prompt in that pass. It
is then stored on the cache. Every pass that continues from the cache, or from a copy of it, follows the same
decision, whatever other requests share its batch.

A pass without a cache is taken as a prompt from end to end. `prompt_lengths` says where its prompts end
instead. The pass then gives the same as generating the rest token by token. `prompt_columns` does the same
for whole batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from moe_patch.bypass.config import Tokens
from moe_patch.errors import BypassError

T = TypeVar("T")

_ATTRIBUTE = "moe_patch_routes"  # of a cache: decisions (B,) or (B, n) by the key of their bypass

_lengths: ContextVar[Tensor | None] = ContextVar("prompt_lengths", default=None)
_columns: ContextVar[int | None] = ContextVar("prompt_columns", default=None)


@contextmanager
def _declared(variable: ContextVar[T | None], value: T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def prompt_lengths(lengths: Sequence[int] | Tensor) -> AbstractContextManager[None]:
    """Declare prompts inside the block: the first `lengths[b]` tokens of row b, padding not counted.

    The rest of a row is its answer.
    """
    return _declared(_lengths, torch.as_tensor(lengths, dtype=torch.int64))


def declared_lengths() -> Tensor | None:
    """The lengths (B,) that the innermost `prompt_lengths` has declared, or None."""
    return _lengths.get()


def prompt_columns(count: int) -> AbstractContextManager[None]:
    """Declare prompts inside the block: the first `count` columns of a batch, with padding on either side.

    `prompt_lengths` is more precise and takes precedence.
    """
    return _declared(_columns, count)


def declared_columns() -> int | None:
    """The count of columns that the innermost `prompt_columns` has declared, or None."""
    return _columns.get()


def prompt_mask(real: Tensor, lengths: Tensor | None, columns: int | None = None) -> Tensor:
    """Which tokens belong to the prompts, (B, S) bool.

    Args:
        real: (B, S) bool, false for padding, which may be on either side.
        lengths: (B,) tokens of each prompt without padding; None for all.
        columns: how many columns the prompts take, used if `lengths` is None; None for all.

    Raises:
        BypassError: the number of lengths is not that of rows, the batch has fewer columns than the prompts
            take, or a prompt has no token.
    """
    if lengths is not None and len(lengths) != len(real):
        raise BypassError(f"{len(lengths)} prompt lengths were declared for a batch of {len(real)} rows")
    if columns is not None and real.shape[1] < columns:
        raise BypassError(
            f"prompts of {columns} tokens came in pieces, the first of {real.shape[1]} tokens, but an expert "
            "is chosen from whole prompts: generate without prefill_chunk_size and guidance_scale"
        )
    prompt = real.clone()
    if lengths is not None:
        prompt &= real.cumsum(1) <= lengths.to(real.device)[:, None]
    elif columns is not None:
        prompt[:, columns:] = False
    if not bool(prompt.any(1).all()):
        raise BypassError("a prompt in the batch has no token, so no expert can be chosen for it")
    return prompt


def acting_tokens(real: Tensor, prompt: Tensor, tokens: Tokens) -> Tensor:
    """The tokens on which the chosen expert acts, (B, S) bool.

    These are all tokens except padding, or with "last" those from a prompt's last token on.
    """
    if tokens == "all":
        return real
    return real & (real.cumsum(1) >= prompt.sum(1, keepdim=True))


def store_route(cache: Any, key: str, route: Tensor) -> None:
    """Store the decision (B,) or (B, n) of the bypass called `key` on a cache of keys and values."""
    setattr(cache, _ATTRIBUTE, {**getattr(cache, _ATTRIBUTE, {}), key: route})


def stored_route(cache: Any, key: str, rows: int) -> Tensor:
    """The decision (B,) or (B, n) of the bypass called `key` that is stored on a cache.

    Raises:
        BypassError: the cache was filled without the bypass, or the number of rows has changed since.
    """
    route: Tensor | None = getattr(cache, _ATTRIBUTE, {}).get(key)
    if route is None:
        raise BypassError(
            "the cache of keys and values was filled without this bypass, so no expert was chosen for its "
            "prompts: start again from the prompts"
        )
    if len(route) != rows:
        raise BypassError(
            f"the cache was filled with {len(route)} prompts and is continued with {rows} rows: repeat or "
            "select rows before running the prompts, not after"
        )
    return route
