"""Rounding of edited weights that keeps what the edit does to its own facts.

A weight in bf16 has 8 significant bits. Most elements of an edit are smaller than half a step of the weights
they are added to, so rounding to the nearest number loses them. But the outputs for the facts' keys matter,
not single elements, and there an error in one element can be balanced by rounding another element the other
way.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["nearest", "compensated"]
"""Round each element to the nearest number, or so that the outputs for the facts' keys change least."""


def round_on_keys(exact: Tensor, dtype: torch.dtype, keys: Tensor) -> Tensor:
    """Round a weight to `dtype` so that its outputs for some keys change least, see `choose_on_keys`.

    Args:
        exact: (d_m, d_k), fp32 or fp64.
        keys: (n, d_k), the rows g k~ of the facts that reach this expert.

    Returns:
        (d_m, d_k) in `dtype`, a new tensor.
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
    """Choose between two numbers for each element so that outputs for some keys change least.

    All elements start at the nearest number. Then the columns are visited, those with the largest keys first,
    and an element takes the other number where that makes the error of its row's outputs smaller. (This is a
    greedy vector form of error-feedback quantisation.) So no element moves by more than one step.

    Args:
        exact: (d_m, d_k), fp32 or fp64.
        nearest: (d_m, d_k), the nearest number to each element.
        other: (d_m, d_k), the number that it may take instead.
        keys: (n, d_k), the rows g k~ of the facts that reach this expert.

    Returns:
        (d_m, d_k) bool: where the other number is taken; all False without keys.
    """
    taken = torch.zeros(exact.shape[::-1], dtype=torch.bool, device=exact.device)  # (d_k, d_m)
    if not len(keys):
        return taken.T
    step = (other - nearest).T.contiguous()  # (d_k, d_m)
    key = keys.to(exact.device, exact.dtype)
    error = key @ (nearest - exact).T  # (n, d_m) error of the outputs
    for column in torch.argsort(key.square().sum(0), descending=True).tolist():
        turned = error + key[:, column, None] * step[column]  # (n, d_m) if all rows took the other
        taken[column] = turned.square().sum(0) < error.square().sum(0)
        error = torch.where(taken[column], turned, error)
    return taken.T
