"""Random bypasses, and patches that hold them."""

from __future__ import annotations

from typing import Any

import torch

from moe_patch.bypass import Bypass, BypassConfig, Routed, write_bypass
from moe_patch.patch import Patch
from tests.patch.patches import delta_patch, fingerprint

WIDTH = 32


def config(**changes: Any) -> BypassConfig:
    sizes: dict[str, Any] = {"layer": 1, "width": WIDTH, "experts": 3, "expert_width": 8, "adapter_width": 6}
    return BypassConfig(**sizes | changes)


def random_bypass(seed: int = 0, scale: float = 0.3, **changes: Any) -> Bypass:
    """All weights are random, output projections included: routes differ and every expert has an effect."""
    torch.manual_seed(seed)
    bypass = Bypass(config(**changes))
    with torch.no_grad():
        for weight in bypass.parameters():
            weight.normal_(std=scale)
    return bypass.requires_grad_(False).eval()


def patch_of(bypass: Bypass, num_facts: int = 4, **changes: Any) -> Patch:
    facts = torch.arange(num_facts)
    routed = Routed(facts % bypass.config.experts, facts / num_facts)
    hyperparameters, tensors = write_bypass(bypass, routed)
    values: dict[str, Any] = {
        "kind": "bypass",
        "method": "memoe",
        "hyperparameters": hyperparameters,
        "base": fingerprint(bypass.config.layer),
        "layers": {},
        "bypass": tensors,
    }
    return delta_patch(num_facts, **values | changes)
