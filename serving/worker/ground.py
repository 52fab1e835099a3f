"""What the load format makes of one expert of a checkpoint, for changes of what was loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.apply.weights.summed import patched_weight
from moe_patch.patch import Patch
from moe_patch_serving.worker.experts import ServedLayer


def loaded_weight(weight: Tensor, expert: int, layer: ServedLayer, patch: Patch | None) -> Tensor:
    """A checkpoint's down projection with a patch, as `PatchedStream` hands it to vLLM, bit for bit.

    Args:
        weight: (d_m, d_k), as it is stored.
        expert: its number in the layer.
        layer: the layer that serves it.
        patch: the delta that was loaded; None for the bare weight.
    """
    wide = weight.to(torch.promote_types(weight.dtype, layer.weight.dtype))  # (d_m, d_k)
    if patch is None or layer.index not in patch.layers:
        return wide
    delta = patch.layers[layer.index]
    return patched_weight(wide, expert, [delta]).to(wide.dtype) if expert in delta.experts() else wide
