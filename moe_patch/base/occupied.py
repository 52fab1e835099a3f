"""Whether a live model is in use. Code that measures the bare base checks this first."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from moe_patch.base.experts import IMPLEMENTATION
from moe_patch.base.model import Base

hashes_on: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def find_occupant(base: Base) -> str | None:
    """Why the model is not the bare base, in words for a message; None if it is.

    Either a patch is on or the experts are being observed.
    A measurement of a model that is in use would be mistaken for one of the base.
    """
    if hashes := hashes_on.get(base.model):
        return f"{base.name} has a patch on ({min(hashes)})"
    for layer in base.layers.values():
        config: Any = layer.experts.config
        if layer.originals or config._experts_implementation == IMPLEMENTATION:
            return f"{layer.name} has a patch on or is being observed"
    return None
