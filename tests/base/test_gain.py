"""The measured gain from experts to residual stream, in architectures whose config states it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moe_patch.base.gain import residual_gain
from tests.tiny import tiny_base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "overrides", "gain"),
    [
        ("qwen3_moe", {}, 1.0),
        ("granitemoe", {"residual_multiplier": 0.22}, 0.22),
        ("minimax", {"mlp_alpha_factor": 2.0, "mlp_beta_factor": 1.5}, 1.5),
        ("laguna", {"moe_routed_scaling_factor": 2.5}, 2.5),
        ("deepseek_v3", {"routed_scaling_factor": 2.5}, 1.0),  # the router has it in its gates
    ],
)
def test_the_factor_that_the_config_sets_is_measured(
    model_type: str, overrides: dict[str, Any], gain: float, dtype: torch.dtype
) -> None:
    base = tiny_base(model_type, **overrides)
    base.model.to(dtype)
    for index in base.layers:
        assert residual_gain(base, index) == pytest.approx(gain, rel=1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("model_type", ["afmoe", "flex_olmo"])
def test_a_norm_behind_the_experts_has_no_factor(model_type: str) -> None:
    base = tiny_base(model_type)
    assert [residual_gain(base, index) for index in base.layers] == [None] * len(base.layers)


def test_measuring_leaves_nothing_behind() -> None:
    base = tiny_base("qwen3_moe")
    residual_gain(base, 1)
    modules = (base.layer(1).experts, *base.decoder_layers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
