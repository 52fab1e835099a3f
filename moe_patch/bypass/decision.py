"""The routing decision of a request: on which tokens it is taken, where it is kept, and where it acts.

It is taken in the first pass that fills a cache of keys and values, on the prompt which that pass runs, and
is written onto the cache. Whatever continues from the cache, or from a copy of it, then goes the same way,
whichever other requests share its batch. A pass without a cache is a prompt from end to end, unless
`prompt_lengths` says where its prompts end: then it gives what generating the rest token by token would
have given. `prompt_columns` says so of whole batches.
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

_ATTRIBUTE = "moe_patch_routes"  # of a cache: decisions (B,) by the key of the bypass that took them

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
    """Within, the first `lengths[b]` real tokens of row b are its prompt, and what follows is an answer."""
    return _declared(_lengths, torch.as_tensor(lengths, dtype=torch.int64))


def declared_lengths() -> Tensor | None:
    """The lengths (B,) that the innermost `prompt_lengths` declares, or None."""
    return _lengths.get()


def prompt_columns(count: int) -> AbstractContextManager[None]:
    """Within, prompts are in the first `count` columns of a batch, with their padding on either side.

    What `prompt_lengths` says of a batch is said more closely, and goes before it.
    """
    return _declared(_columns, count)


def declared_columns() -> int | None:
    """The columns that the innermost `prompt_columns` declares, or None."""
    return _columns.get()


def prompt_mask(real: Tensor, lengths: Tensor | None, columns: int | None = None) -> Tensor:
    """Which tokens are the prompts', (B, S) bool.

    Args:
        real: (B, S) bool, false for padding, on whichever side.
        lengths: (B,) real tokens of each prompt; None for all.
        columns: how many columns the prompts take, where no lengths are given; None for all.

    Raises:
        BypassError: there are not as many lengths as rows, or fewer columns than the prompts take, or a
            prompt has no token.
    """
    if lengths is not None and len(lengths) != len(real):
        raise BypassError(f"{len(lengths)} prompt lengths were declared for a batch of {len(real)} rows")
    if columns is not None and real.shape[1] < columns:
        raise BypassError(
            f"prompts of {columns} tokens came in pieces, {real.shape[1]} first, and an expert is chosen "
            "from whole prompts: generate without prefill_chunk_size and guidance_scale"
        )
    prompt = real.clone()
    if lengths is not None:
        prompt &= real.cumsum(1) <= lengths.to(real.device)[:, None]
    elif columns is not None:
        prompt[:, columns:] = False
    if not bool(prompt.any(1).all()):
        raise BypassError("a prompt in the batch has no token, so that there is nothing to route it by")
    return prompt


def acting_tokens(real: Tensor, prompt: Tensor, tokens: Tokens) -> Tensor:
    """On which tokens the chosen expert acts, (B, S) bool: all real ones, or from a prompt's last one on."""
    if tokens == "all":
        return real
    return real & (real.cumsum(1) >= prompt.sum(1, keepdim=True))


def store_route(cache: Any, key: str, route: Tensor) -> None:
    """Write the decision (B,) of the bypass called `key` onto a cache of keys and values."""
    setattr(cache, _ATTRIBUTE, {**getattr(cache, _ATTRIBUTE, {}), key: route})


def stored_route(cache: Any, key: str, rows: int) -> Tensor:
    """The decision (B,) that the cache carries.

    Raises:
        BypassError: it was filled before the bypass was put on, or the rows of the batch changed since.
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
            "select rows before the prompts are run, not after"
        )
    return route
