"""A patch added to the weights in memory."""

from __future__ import annotations

import weakref
from contextlib import ExitStack

import torch
from torch import nn

from moe_patch.apply.dense import dense_delta, summed
from moe_patch.errors import ModelError
from moe_patch.experts import Delta, Handle, check_fit
from moe_patch.model import Base, MoELayer
from moe_patch.patch import Patch

_merged: weakref.WeakKeyDictionary[nn.Module, list[Delta]] = (
    weakref.WeakKeyDictionary()
)  # in order of merging


def merge(base: Base, patch: Patch) -> Handle:
    """Add the patch to the down projections, in place and in their dtype, until the handle is removed.

    Each touched expert's original is kept. Its weight is always the original plus the deltas that are on, in
    order of merging, summed in fp32 (fp64 for fp64 weights) and rounded once; with none left it is the
    original, bit for bit. What else changed these weights meanwhile is lost on removal.

    Raises ModelError for a layer that the base does not have or keeps offloaded, CaptureError for one of
    other widths.
    """
    with ExitStack() as stack:
        for index, delta in patch.layers.items():
            layer = base.layer(index)
            check_fit(layer, delta)
            if layer.offloaded:
                raise ModelError(f"{layer.name} is offloaded, so a merge would not last: use mode 'hook'")
            stack.callback(_remove, layer, delta)
            _merged.setdefault(layer.experts, []).append(delta)
            _rewrite(layer, delta)
        return Handle(stack.pop_all())


def _remove(layer: MoELayer, delta: Delta) -> None:
    deltas = _merged[layer.experts]
    deltas[:] = [other for other in deltas if other is not delta]
    _rewrite(layer, delta)


def _rewrite(layer: MoELayer, changed: Delta) -> None:
    """Set every down projection that `changed` touches to its original plus the deltas that are on."""
    for expert in torch.unique(changed.expert).tolist():
        weight = layer.down(expert)  # (d_m, d_k), a view
        original = layer.originals.setdefault(expert, weight.clone())
        on = [delta for delta in _merged[layer.experts] if expert in delta.expert]
        if on:
            weight.copy_(summed(original, (dense_delta(delta, expert, weight) for delta in on)))
        else:
            weight.copy_(layer.originals.pop(expert))
