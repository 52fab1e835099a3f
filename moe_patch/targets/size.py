"""How large the residual stream is at a token: the unit of changes to it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NORMAL_MEDIAN = 0.6745  # the median of |x| for a standard normal x
_OUTLIER = 4.0  # standard deviations beyond which a coordinate counts as an outlier; 1 in 16,000 if normal


def stream_size(stream: Tensor) -> Tensor:
    """The norms (n,) of streams (n, d_m), each with its outlying coordinates cut down to the rest.

    Some models have a few coordinates a hundred times as large as all others, the same at every token
    ("massive activations", arXiv 2402.17762). They make up the norm, but say nothing about what a change
    does. So a coordinate counts for at most 4 standard deviations, by the median of all coordinates' sizes.
    Where there are no outliers this is the norm. It grows with the stream in proportion.
    """
    wide = stream.float().abs()
    deviation = wide.median(dim=1, keepdim=True).values / _NORMAL_MEDIAN  # (n, 1)
    size = torch.minimum(wide, _OUTLIER * deviation).norm(dim=1)  # (n,)
    return torch.where(size > 0, size, wide.norm(dim=1))  # most coordinates may be zero


def coordinate_size(stream: Tensor) -> Tensor:
    """`stream_size` (n,) by coordinate: divided by the root of d_m."""
    return stream_size(stream) / math.sqrt(stream.shape[1])
