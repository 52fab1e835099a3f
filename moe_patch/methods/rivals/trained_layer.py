"""Matrices that are trained and added to the experts of one layer; the base itself stays frozen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from moe_patch.base.experts import Handle, attach_matrices
from moe_patch.base.model import Base
from moe_patch.patch import Dense


class TrainedLayer:
    """One layer's dense change, which grows batch by batch. It is on the model from `begin` to `off`.

    Memory: one fp32 matrix (d_m, d_k) for each expert so far, two if a bound is held, and what the optimiser
    keeps of those that a batch trains.
    """

    def __init__(self, base: Base, layer: int) -> None:
        self._layer = base.layer(layer)
        self._change: dict[int, Tensor] = {}  # by expert, (d_m, d_k) fp32, or fp64 on a base of fp64
        self._before: dict[int, Tensor] = {}  # what the experts of this batch had before it
        self._handle: Handle | None = None

    def begin(self, experts: Iterable[int], *, bounded: bool = False) -> list[Tensor]:
        """Begin a batch that trains these experts.

        Args:
            experts: numbers of experts.
            bounded: whether `hold` will be called.

        Returns:
            their matrices (d_m, d_k), leaves that require gradients; each starts at what earlier batches gave
            it, and can be changed in place.
        """
        self.off()
        layer = self._layer
        dtype = torch.promote_types(torch.float32, layer.dtype)
        zero = torch.zeros(layer.d_model, layer.d_key, dtype=dtype, device=layer.device)
        chosen = sorted(set(experts))
        earlier = {expert: self._change.get(expert, zero) for expert in chosen}
        self._before = earlier if bounded else {}
        self._change |= {expert: value.clone().requires_grad_() for expert, value in earlier.items()}
        self._handle = attach_matrices(layer, self._change)
        return [self._change[expert] for expert in chosen]

    @torch.no_grad()
    def hold(self, bound: float) -> None:
        """Keep every element of this batch's change within `bound`."""
        for expert, before in self._before.items():
            self._change[expert].copy_(torch.clamp(self._change[expert], before - bound, before + bound))

    def end(self) -> None:
        """End a batch. Its change stays on the model, and is no longer trained."""
        for value in self._change.values():
            value.requires_grad_(False)
            value.grad = None
        self._before = {}

    def off(self) -> None:
        """Take the change off the model; it is kept here."""
        self.end()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def dense(self) -> Dense | None:
        """The whole change, of the experts where it is not zero."""
        return Dense.of_experts({e: value for e, value in self._change.items() if bool(value.any())})
