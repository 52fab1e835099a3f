"""Rounding of edited weights that keeps what the edit does to its own facts.

A weight in bf16 has 8 significant bits. Most of an edit's elements are smaller than half a step of the
weights they are added to, and rounding each to the nearest loses them. What matters is not the elements but
the outputs for the facts' keys, and for these an error in one element can be paid for by rounding another one
the other way.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["nearest", "compensated"]
"""Each element to the nearest number, or so that the outputs for the facts' keys come out right."""


def round_on_keys(exact: Tensor, dtype: torch.dtype, keys: Tensor) -> Tensor:
    """Round a weight to `dtype` so that what it puts out for some keys changes least.

    Every element becomes one of the two numbers beside it, so that nothing moves by more than one step. All
    start as the nearest. Then, column by column and the one with the largest keys first, an element takes
    the other number wherever that makes the error of its row's outputs smaller (a greedy vector form of
    error-feedback quantisation).

    Args:
        exact: (d_m, d_k), fp32 or fp64.
        keys: (n, d_k), the rows g k~ of the facts that reach this expert.

    Returns:
        (d_m, d_k) in `dtype`.
    """
    if not len(keys) or torch.finfo(dtype).bits >= torch.finfo(exact.dtype).bits:
        return exact.to(dtype)
    exact_by_column = exact.T.contiguous()  # (d_k, d_m)
    rounded = exact_by_column.to(dtype)
    nearest = rounded.to(exact.dtype)
    off = nearest - exact_by_column  # (d_k, d_m), by how much the nearest is too large
    beyond = torch.where(off > 0, -torch.inf, torch.inf).to(dtype)
    other = torch.nextafter(rounded, beyond)
    step = torch.where(off == 0, 0.0, other.to(exact.dtype) - nearest)  # (d_k, d_m)
    key = keys.to(exact.device, exact.dtype)
    error = key @ off  # (n, d_m): of the outputs
    for column in torch.argsort(key.square().sum(0), descending=True).tolist():
        turned = error + key[:, column, None] * step[column]  # (n, d_m), were every row to take the other
        better = turned.square().sum(0) < error.square().sum(0)  # (d_m,)
        error = torch.where(better, turned, error)
        rounded[column] = torch.where(better, other[column], rounded[column])
    return rounded.T
