"""One expert's weight with deltas added: the same arithmetic, to the bit, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from moe_patch.base.experts import Delta


def patched_weight(
    weight: Tensor, expert: int, deltas: Iterable[Delta], *, columns: slice | None = None
) -> Tensor:
    """An expert's weight with deltas added to it in order, not yet rounded to the weight's dtype.

    Args:
        weight: (d_m, d_k), or only some of its columns; it is not changed.
        columns: which of the deltas' d_k columns `weight` has; all by default.

    Returns:
        the sum, contiguous and of the shape of `weight`, in the wider of its dtype and fp32, on its device.
    """
    dtype = torch.promote_types(torch.float32, weight.dtype)
    total = weight.to(dtype, copy=True, memory_format=torch.contiguous_format)
    for delta in deltas:
        rows = (delta.rows.expert == expert).nonzero().squeeze(1)  # (n,)
        left = delta.left[delta.rows.fact[rows]].to(weight.device, dtype)  # (n, d_m)
        right = delta.rows.value[rows][:, columns or slice(None)].to(weight.device, dtype)  # (n, d_k)
        total.addmm_(left.T, right)  # one pass: time goes to memory access, not to arithmetic
        whole = None if delta.dense is None else delta.dense.of(expert)
        if whole is not None:
            total.add_(whole[:, columns or slice(None)].to(weight.device, dtype))
    return total
