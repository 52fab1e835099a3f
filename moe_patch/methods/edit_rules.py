"""How edit layers share a batch's residual, which experts take part, and what becomes of earlier facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from moe_patch.base.capture import ExpertCall

ResidualShare = Literal["layers", "distance", "root"]
"""What an edit layer l is asked for of what is missing at the last one, L: the missing part divided by the
number of edit layers from l to L, by L - l + 1, or by the root of that number."""

ResidualAt = Literal["last", "own"]
"""The stream that is compared with the target value: that after the last edit layer, or that after the layer
that is solved."""


@dataclass(frozen=True, slots=True)
class EditRules:
    """What a method lets the shared editors do."""

    protect_earlier: bool = True  # ask that a batch add nothing for earlier facts
    move_earlier: bool = (
        True  # let earlier facts about a new fact's subject move along, if they are protected
    )
    residual_share: ResidualShare = "layers"
    residual_at: ResidualAt = "last"
    experts_per_fact: int | None = None  # edit only those with a fact's largest gates; None: all it reaches

    def divisor(self, layers: Sequence[int], layer: int) -> float:
        """What the missing part is divided by at `layer`, one of the edit layers, which ascend."""
        if self.residual_share == "distance":
            return float(layers[-1] - layer + 1)
        left = len(layers) - layers.index(layer)
        return sqrt(left) if self.residual_share == "root" else float(left)


def strongest_experts(call: ExpertCall, count: int, num_experts: int) -> ExpertCall:
    """The call with only the `count` slots of each token that have its largest gates.

    The others are marked as having reached no expert. Of equal gates, that of the earlier slot is kept.

    Args:
        call: keys (N, K, d_k), gates and experts (N, K).
        count: at least 1; K or more keeps all.
        num_experts: E, the mark of a slot that reached no expert.
    """
    size = call.gates.abs().float().masked_fill(call.experts >= num_experts, -1.0)  # (N, K)
    rank = size.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (N, K)
    dropped = rank >= count
    return replace(
        call,
        gates=call.gates.masked_fill(dropped, 0.0),
        experts=call.experts.masked_fill(dropped, num_experts),
    )
