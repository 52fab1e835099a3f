"""While a bypass is on, `generate()` declares which columns of its passes are prompts.

A bypass chooses an expert from the prompt alone, but a pass does not show which of its tokens are the prompt.
The first pass may hold more: assisted decoding appends guessed tokens, and without a cache every pass also
holds the answer so far. It may hold less: `prefill_chunk_size` runs a prompt in pieces.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor, nn

from moe_patch.bypass import prompt_columns


@dataclass(slots=True)
class _WrappedGenerate:
    """A model whose `generate` is wrapped."""

    before: Callable[..., Any] | None  # the instance's own attribute that was replaced, if it had one
    count: int = 0  # how many bypasses need the wrapper


_wrapped: weakref.WeakKeyDictionary[nn.Module, _WrappedGenerate] = weakref.WeakKeyDictionary()


def tell_prompts(model: nn.Module, stack: ExitStack) -> None:
    """Have the model's `generate` declare its prompts until every stack passed for this model is closed."""
    own: Callable[..., Any] | None = getattr(model, "generate", None)
    if own is None:  # a model without a head
        return
    if model not in _wrapped:
        _wrapped[model] = _WrappedGenerate(model.__dict__.get("generate"))
        model.__dict__["generate"] = _telling(own)
    _wrapped[model].count += 1
    stack.callback(_release, model)


def _release(model: nn.Module) -> None:
    told = _wrapped[model]
    told.count -= 1
    if told.count:
        return
    del _wrapped[model]
    if told.before is None:
        model.__dict__.pop("generate", None)
    else:
        model.__dict__["generate"] = told.before


def _telling(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def generate(*arguments: Any, **named: Any) -> Any:
        prompts = (named.get("inputs_embeds"), *arguments[:1], named.get("inputs"), named.get("input_ids"))
        given = next((prompt for prompt in prompts if isinstance(prompt, Tensor)), None)
        if given is None:
            return own(*arguments, **named)
        with prompt_columns(given.shape[1]):
            return own(*arguments, **named)

    return generate
