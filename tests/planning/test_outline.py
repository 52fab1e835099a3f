"""A model by its config alone, held to the model with its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moe_patch.base.classes import text_class
from moe_patch.base.opening import wrap
from moe_patch.errors import ModelError
from moe_patch.planning.outline import ModelOutline, outline_base, outline_model
from tests.architectures.registry import ModelType, tiny_config
from tests.tiny import CONFIGS, tiny_base

# whose passes read values on the way, which are none on the meta device
UNCOUNTED = {"gemma4"}


def outline_of(model_type: str) -> ModelOutline:
    """The outline of a tiny model, from its config."""
    config = tiny_config(ModelType(model_type))
    with torch.device("meta"):
        model = text_class(config).from_config(config)
    return outline_base(wrap(model.eval(), None, model_type))


@pytest.mark.parametrize("model_type", sorted(set(CONFIGS) - UNCOUNTED))
def test_sizes_are_those_of_the_model(model_type: str) -> None:
    found, base = outline_of(model_type), tiny_base(model_type)
    assert found.parameters == sum(parameter.numel() for parameter in base.model.parameters())
    assert found.editable == tuple(base.layers)
    for index, layer in base.layers.items():
        outlined = found.layers[index]
        assert (outlined.experts, outlined.d_key) == (layer.num_experts, layer.d_key)
        assert 0 < outlined.top_k <= outlined.experts


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "deepseek_v3"])
def test_operations_are_those_of_a_pass(model_type: str) -> None:
    base = tiny_base(model_type)
    base.model.set_experts_implementation("eager")  # torch counts the products of these
    base.model.set_attn_implementation("eager")
    ids = torch.arange(8)[None] + 4
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        base.decoder(input_ids=ids, use_cache=True)
    expected = sum(layer.token_flops for layer in outline_of(model_type).layers)
    assert counter.get_total_flops() / ids.numel() == pytest.approx(expected, rel=0.02)


def test_a_config_needs_no_weights_beside_it(tmp_path: Path) -> None:
    config = tiny_config(ModelType("qwen3_moe"))
    config.save_pretrained(tmp_path)
    for place in (tmp_path, tmp_path / "config.json"):
        assert outline_model(place).parameters == outline_of("qwen3_moe").parameters


def test_a_config_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "perpetuum"}))
    with pytest.raises(ModelError, match="perpetuum"):
        outline_model(path)


def test_a_dense_model_has_nothing_to_edit(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="is a dense model"):
        outline_model(path)
