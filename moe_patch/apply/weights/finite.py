"""The check of a weight that is about to be written: whatever a patch adds, the result has to be finite."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.errors import NotFinite


def require_finite(weight: Tensor, layer: int, expert: int) -> None:
    """Check one expert's weight, in the dtype in which it will be stored.

    Args:
        weight: of any shape, not empty, with the patches added.
        layer: of the decoder, for the error.
        expert: in that layer, for the error.

    Raises:
        NotFinite: the weight holds NaN or an infinity.
    """
    bounds = weight.aminmax()  # as NaN if there is one; unlike a mask, they take no memory
    if not all(bool(torch.isfinite(bound)) for bound in bounds):
        raise NotFinite(
            f"layer {layer}, expert {expert}: with the patch, the weight overflows {weight.dtype}: the edit "
            "is too large for this base"
        )
