"""What is on a live model: whoever measures the bare base asks here first."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from moe_patch.base.experts import IMPLEMENTATION
from moe_patch.base.model import Base

hashes_on: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def find_occupant(base: Base) -> str | None:
    """What keeps the model from being the bare base, in words: a patch that is on, or an observer; or None.

    What is measured then would pass for the base's own.
    """
    if hashes := hashes_on.get(base.model):
        return f"{base.name} has a patch on ({min(hashes)})"
    for layer in base.layers.values():
        config: Any = layer.experts.config
        if layer.originals or config._experts_implementation == IMPLEMENTATION:
            return f"{layer.name} has a patch on or is being observed"
    return None
