"""Units of a learning rate: absolute, as papers state it, or in the size of the weights.

Adam moves every element by about the rate. The papers' rates suit weights of the size that theirs have, and
mean nothing where weights are ten times as large.
"""

from __future__ import annotations

from typing import Literal

from moe_patch.base.moe import MoELayer

Units = Literal["published", "weights"]
"""1, or the layer's root mean square weight over `USUAL_SIZE`."""

UNITS_HELP = (
    "What rates and bounds are multiples of: 1, as published, or the size of the layer's weights over 0.02, "
    "which is their usual one."
)

USUAL_SIZE = 0.02
"""The standard deviation with which the papers' models (Llama, Qwen, Mistral) are initialised."""


def weight_unit(layer: MoELayer, units: Units) -> float:
    """What to multiply a published rate or bound with at a layer."""
    if units == "published":
        return 1.0
    with layer.weights() as stacked:  # (E, d_m, d_k); one expert at a time, which takes less memory
        squares = sum(float(weight.float().square().mean()) for weight in stacked)
    return float((squares / layer.num_experts) ** 0.5) / USUAL_SIZE
