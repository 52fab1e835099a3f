"""Putting a patch on a model, and taking it off again."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Literal, get_args

from torch import nn

from moe_patch.apply.hook import hook
from moe_patch.apply.merge import merge
from moe_patch.errors import ConfigError, PatchError
from moe_patch.experts import Handle
from moe_patch.model import Base, wrap
from moe_patch.patch import Patch, check_base

__all__ = ["Handle", "Mode", "apply"]

Mode = Literal["merge", "hook"]

_hashes_on: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def apply(model: Base | nn.Module, patch: Patch, *, mode: Mode = "merge", check: bool = True) -> Handle:
    """Put a patch on a model until the returned handle is removed or its `with` block ends.

    "merge" adds the deltas to the weights, in place and in their dtype: full speed afterwards, and one copy
    of each touched down projection is kept. "hook" leaves the weights as they are and adds the low-rank
    products inside the experts. Patches add up, and may be removed in any order: merged weights come back bit
    for bit.

    Raises:
        WrongBase: `check` is on and the patch was built for another base.
        PatchError: the patch is on this model already, or is of a kind that does not change expert weights.
        ModelError: the model has no such layers, or its weights are offloaded and cannot be merged into.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"mode {mode!r} is unknown; choose from {', '.join(get_args(Mode))}")
    if patch.kind != "delta":
        raise PatchError(
            f"a patch of kind {patch.kind!r} does not change expert weights: it cannot be applied here"
        )
    base = model if isinstance(model, Base) else wrap(model, tokenizer=None)
    on = _hashes_on.setdefault(base.model, set())
    if patch.hash in on:
        raise PatchError(f"patch {patch.hash} is on this model already: remove it first")
    if check:
        check_base(patch, base.fingerprint(base.layers.keys() & patch.layers.keys()))
    with ExitStack() as stack:
        stack.enter_context(merge(base, patch) if mode == "merge" else hook(base, patch))
        on.add(patch.hash)
        stack.callback(on.discard, patch.hash)
        return Handle(stack.pop_all())
