"""What a patch adds to the experts of one layer, and the tensors of a file that hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.patch.rows import Rows


@dataclass(frozen=True, slots=True, eq=False)
class LayerDelta:
    """What a patch adds to the experts of one layer, and what solving it again needs.

    The delta of expert j is the sum of outer(left[fact[i]], right[i]) over the rows i with expert[i] == j, of
    shape (d_m, d_k). Rows ascend by (expert, fact), without repeats.
    """

    left: Tensor  # (R, d_m) fp32; R is the number of facts, or of rows for a method with a left for each row
    right: Tensor  # (nnz, d_k) fp32
    expert: Tensor  # (nnz,) int32
    fact: Tensor  # (nnz,) int32, a row of left
    residual: Tensor | None  # (T, d_m) fp32: what the layer was asked to add for each fact
    keys: Rows | None  # the facts' own rows g k~, where right, expert and fact are not these
    ridge: float  # lambda, absolute

    @property
    def rows(self) -> Rows:
        """The facts' own rows g k~, which solving again, protection and removal start from."""
        if self.keys is not None:
            return self.keys
        return Rows(self.right, self.expert.long(), self.fact.long(), num_facts=len(self.left))

    def experts(self) -> list[int]:
        """The experts that this changes, ascending."""
        return [int(expert) for expert in torch.unique_consecutive(self.expert)]


def delta_tensors(layer: int, delta: LayerDelta) -> dict[str, Tensor]:
    """The tensors of a layer's delta, by their names in the file."""
    named = {
        f"delta.{layer}.left": delta.left,
        f"delta.{layer}.right": delta.right,
        f"delta.{layer}.expert": delta.expert,
        f"delta.{layer}.fact": delta.fact,
    }
    if delta.residual is not None:
        named[f"solve.{layer}.residual"] = delta.residual
    if delta.keys is not None:
        named[f"solve.{layer}.key"] = delta.keys.value.float()
        named[f"solve.{layer}.expert"] = delta.keys.expert.int()
        named[f"solve.{layer}.fact"] = delta.keys.fact.int()
    return named


def delta_from(layer: int, tensors: Mapping[str, Tensor], num_facts: int, ridge: float) -> LayerDelta:
    """The delta of a layer from the tensors of a file, of which the right ones must be there."""
    keys = None
    if f"solve.{layer}.key" in tensors:
        keys = Rows(
            tensors[f"solve.{layer}.key"],
            tensors[f"solve.{layer}.expert"].long(),
            tensors[f"solve.{layer}.fact"].long(),
            num_facts=num_facts,
        )
    return LayerDelta(
        left=tensors[f"delta.{layer}.left"],
        right=tensors[f"delta.{layer}.right"],
        expert=tensors[f"delta.{layer}.expert"],
        fact=tensors[f"delta.{layer}.fact"],
        residual=tensors.get(f"solve.{layer}.residual"),
        keys=keys,
        ridge=ridge,
    )
