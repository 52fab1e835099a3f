"""One expert's weight with deltas added: the same arithmetic in memory and on the disk, to the bit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from moe_patch.experts import Delta


def dense_delta(delta: Delta, expert: int, weight: Tensor) -> Tensor:
    """One expert's delta (d_m, d_k), in the wider of fp32 and the dtype of `weight`, on its device."""
    rows = (delta.expert == expert).nonzero().squeeze(1)  # (n,)
    dtype = torch.promote_types(torch.float32, weight.dtype)
    left = delta.left[delta.fact[rows].long()].to(weight.device, dtype)  # (n, d_m)
    right = delta.right[rows].to(weight.device, dtype)  # (n, d_k)
    return left.T @ right


def summed(weight: Tensor, deltas: Iterable[Tensor]) -> Tensor:
    """`weight` plus dense deltas, in their order and dtype: (d_m, d_k), not yet rounded to the weight's.

    The deltas' own memory takes the sums: at a gigabyte a second of new memory, that is half of the time.
    """
    total = weight
    for delta in deltas:
        total = delta.add_(total)
    return total
