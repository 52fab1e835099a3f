"""The search on a model whose stream is a multiple of another's, which computes the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.data.facts import Fact
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from tests import published
from tests.tiny import tiny_base

FACTS = (
    Fact("rome", "The capital of {} is", "France", "Rome"),
    Fact("oz", "{} lies in", "Oz", "America"),
    Fact("language", "In {}, they speak", "Oz", "Norse", keep=("{} exports",)),
)
LAYER = 1


def scaled(base: Base, scale: float) -> Base:
    """The same model with a stream that is `scale` times as large: its norms take the factor out again."""
    model: Any = copy.deepcopy(base.model)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(scale)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(scale)
            layer.mlp.experts.down_proj.mul_(scale)
        for module in model.modules():
            if hasattr(module, "variance_epsilon") and module.weight.shape[0] == base.hidden_size:
                module.variance_epsilon *= scale**2
    return wrap(model, base.tokenizer, name="scaled")


@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_the_same_model_at_another_scale_gets_the_same_change(scale: float) -> None:
    base = tiny_base("qwen3_moe", tie_word_embeddings=False)
    options = TargetOptions(steps=8, margin=1.0)
    found, other = (find_targets(model, FACTS, LAYER, options) for model in (base, scaled(base, scale)))
    assert other.loss_before == pytest.approx(found.loss_before, abs=1e-4)
    change, other_change = found.value - found.start, (other.value - other.start) / scale
    assert bool((change.norm(dim=1) > 0.1 * found.start.norm(dim=1)).all())
    torch.testing.assert_close(other_change, change, atol=2e-3, rtol=2e-3)
    assert other.loss_after == pytest.approx(found.loss_after, abs=2e-3)
    assert other.steps == found.steps


def test_the_published_search_depends_on_the_scale() -> None:
    base = tiny_base("qwen3_moe", tie_word_embeddings=False)
    options = TargetOptions(**published.TARGETS | {"steps": 8})
    found, other = (find_targets(model, FACTS, LAYER, options) for model in (base, scaled(base, 30.0)))
    assert other.loss_before == pytest.approx(found.loss_before, abs=1e-4)
    change, other_change = found.value - found.start, (other.value - other.start) / 30.0
    assert bool((other_change.norm(dim=1) < 0.2 * change.norm(dim=1)).all())
