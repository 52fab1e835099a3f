"""A patch beside the weights: low-rank products computed inside the experts."""

from __future__ import annotations

from contextlib import ExitStack

from moe_patch.base.experts import Handle, attach_delta
from moe_patch.base.model import Base
from moe_patch.patch import Patch


def hook_deltas(base: Base, patch: Patch) -> Handle:
    """Add gate * left (right . key) to the experts' output, in every layer of the patch.

    Raises:
        ModelError: the base does not have a layer of the patch.
        CaptureError: a layer has other widths than the patch.
    """
    with ExitStack() as stack:
        for index, delta in patch.layers.items():
            stack.enter_context(attach_delta(base.layer(index), delta))
        return Handle(stack.pop_all())
