"""While a bypass is on, `generate()` says which columns of its passes are prompts.

The pass that fills the cache need not run the prompts alone: assisted decoding appends what it guesses, and
without a cache every pass runs what was said so far. Nor need it run them whole: `prefill_chunk_size` deals
them out. Passes do not tell, so that the decision would be taken on something else than the prompts.
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
    """What a wrapped `generate` replaced on the instance, and how many hold it wrapped."""

    before: Callable[..., Any] | None
    count: int = 0


_wrapped: weakref.WeakKeyDictionary[nn.Module, _WrappedGenerate] = weakref.WeakKeyDictionary()


def tell_prompts(model: nn.Module, stack: ExitStack) -> None:
    """Have the model's `generate` declare its prompts until the stack, and all others so used, are closed."""
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
