"""A random bypass for timing, with MEMoE's default sizes, that acts on every token."""

from __future__ import annotations

import torch

from moe_patch.base.model import Base
from moe_patch.bypass import Bypass, BypassConfig, Routed, write_bypass
from moe_patch.data.facts import Fact
from moe_patch.patch import Patch


def busy_bypass(base: Base, layer: int) -> Patch:
    """A patch whose bypass sends each prompt to one of five experts with random weights."""
    config = BypassConfig(
        layer=layer,
        width=base.hidden_size,
        tokens="all",
        scope_gate=False,
        experts=5,
        expert_width=64,
        adapter_width=64,
    )
    torch.manual_seed(0)
    bypass = Bypass(config)
    with torch.no_grad():
        for weight in bypass.parameters():
            weight.normal_(std=0.05)
    hyperparameters, tensors = write_bypass(bypass, Routed(torch.zeros(1), torch.zeros(1)))
    return Patch(
        kind="bypass",
        method="random",
        hyperparameters=hyperparameters,
        base=base.fingerprint([layer]),
        facts=(Fact("none", "{} is", "Nothing", "timed"),),
        results=(),
        layers={},
        bypass=tensors,
    )
