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
    """Round a weight to `dtype` so that what it puts out for some keys changes least, see `choose_on_keys`.

    Args:
        exact: (d_m, d_k), fp32 or fp64.
        keys: (n, d_k), the rows g k~ of the facts that reach this expert.

    Returns:
        (d_m, d_k) in `dtype`, in memory of its own.
    """
    nearest = exact.to(dtype, copy=True)
    if not len(keys) or torch.finfo(dtype).bits >= torch.finfo(exact.dtype).bits:
        return nearest
    off = nearest.to(exact.dtype) - exact
    other = torch.nextafter(nearest, torch.where(off > 0, -torch.inf, torch.inf).to(dtype))
    other = torch.where(off == 0, nearest, other)
    taken = choose_on_keys(exact, nearest.to(exact.dtype), other.to(exact.dtype), keys)
    return torch.where(taken, other, nearest)


def choose_on_keys(exact: Tensor, nearest: Tensor, other: Tensor, keys: Tensor) -> Tensor:
    """Choose between two numbers beside each element so that outputs for some keys change least.

    Nothing moves by more than one step. All start as the nearest. Then, column by column and the one with the
    largest keys first, an element takes the other number wherever that makes the error of its row's outputs
    smaller (a greedy vector form of error-feedback quantisation).

    Args:
        exact, nearest, other: (d_m, d_k), fp32 or fp64.
        keys: (n, d_k), the rows g k~ of the facts that reach this expert.

    Returns:
        (d_m, d_k) bool: where the other one is taken; nowhere without keys.
    """
    taken = torch.zeros(exact.shape[::-1], dtype=torch.bool, device=exact.device)  # (d_k, d_m)
    if not len(keys):
        return taken.T
    step = (other - nearest).T.contiguous()  # (d_k, d_m)
    key = keys.to(exact.device, exact.dtype)
    error = key @ (nearest - exact).T  # (n, d_m): of the outputs
    for column in torch.argsort(key.square().sum(0), descending=True).tolist():
        turned = error + key[:, column, None] * step[column]  # (n, d_m), were every row to take the other
        taken[column] = turned.square().sum(0) < error.square().sum(0)
        error = torch.where(taken[column], turned, error)
    return taken.T
