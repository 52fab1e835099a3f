"""A patch added to the weights in memory."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moe_patch.apply.weights.finite import require_finite
from moe_patch.apply.weights.rounding import Rounding, round_on_keys
from moe_patch.apply.weights.summed import patched_weight
from moe_patch.apply.weights.survival import Survival
from moe_patch.base.experts import Handle, check_fit
from moe_patch.base.leaves import originals_kept
from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.errors import ModelError
from moe_patch.patch import LayerDelta, Patch


@dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    delta: LayerDelta
    rounding: Rounding


_merged: weakref.WeakKeyDictionary[nn.Module, list[_Merged]] = (
    weakref.WeakKeyDictionary()
)  # in order of merging


def merge_deltas(base: Base, patch: Patch, rounding: Rounding = "nearest") -> tuple[Handle, Survival]:
    """Add the patch to the down projections, in place and in their dtype, until the handle is removed.

    Each touched expert's original is kept. Its weight is always the original plus the deltas that are on, in
    order of merging, summed in fp32 (fp64 for fp64 weights) and rounded once; with none left it is the
    original, bit for bit. With "compensated" rounding the outputs for this patch's facts are kept, see
    `round_on_keys`. If something else changes these weights meanwhile, removal overwrites that change.

    Returns:
        the handle, and what is left of each fact's edit after rounding.

    Raises:
        ModelError: the base does not have a layer of the patch, or keeps its weights offloaded.
        CaptureError: a layer has other widths than the patch.
        NotFinite: a weight would overflow its dtype; no weight is changed.
    """
    survival = Survival(patch)
    with ExitStack() as stack:
        for index, delta in patch.layers.items():
            layer, merged = base.layer(index), _Merged(delta, rounding)
            check_fit(layer, delta)
            if layer.offloaded:
                raise ModelError(
                    f"{layer.name} is offloaded, so merged weights would be overwritten: use mode 'hook'"
                )
            stack.callback(_remove_merged, layer, merged)
            _merged.setdefault(layer.experts, []).append(merged)
            _rewrite(layer, delta)
            _measure(survival, layer, delta)
        return Handle(stack.pop_all()), survival


def _remove_merged(layer: MoELayer, gone: _Merged) -> None:
    merged = _merged[layer.experts]
    merged[:] = [other for other in merged if other is not gone]
    _rewrite(layer, gone.delta)


def _rewrite(layer: MoELayer, changed: LayerDelta) -> None:
    """Set each down projection that `changed` touches to its original plus the deltas that are on."""
    with originals_kept(layer):
        for expert in changed.experts():
            weight = layer.down(expert)  # (d_m, d_k), a view
            original = layer.originals.setdefault(expert, weight.clone())
            exact = _exact(layer, expert, original)
            if exact is None:
                weight.copy_(layer.originals.pop(expert))
            else:
                rounded = round_on_keys(exact, weight.dtype, _compensated_keys(layer, expert))
                require_finite(rounded, layer.index, expert)
                weight.copy_(rounded)


def _exact(layer: MoELayer, expert: int, original: Tensor) -> Tensor | None:
    """The original (d_m, d_k) plus all deltas, not rounded; None if no delta touches the expert."""
    on = _deltas_on(layer, expert)
    return patched_weight(original, expert, on) if on else None


def _deltas_on(layer: MoELayer, expert: int) -> list[LayerDelta]:
    """The deltas that are on and touch the expert, in order of merging."""
    return [merged.delta for merged in _merged[layer.experts] if merged.delta.touches(expert)]


def _compensated_keys(layer: MoELayer, expert: int) -> Tensor:
    """The rows (n, d_k) of the facts whose outputs rounding should keep."""
    deltas = [merged.delta for merged in _merged[layer.experts] if merged.rounding == "compensated"]
    return torch.cat([torch.zeros(0, layer.d_key), *(delta.fact_rows.of(expert)[0] for delta in deltas)])


def _measure(survival: Survival, layer: MoELayer, delta: LayerDelta) -> None:
    """Record for each expert that `delta` touches the change it should get, and what is missing of it."""
    for expert in delta.experts():
        exact = _exact(layer, expert, layer.originals[expert])
        assert exact is not None  # `delta` itself is on
        missing = exact - layer.down(expert)  # (d_m, d_k)
        survival.add(layer.index, expert, _deltas_on(layer, expert), missing.cpu())
