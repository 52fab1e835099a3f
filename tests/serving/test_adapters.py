"""Adapters in vLLM: an engine loads them, and its buffers multiply to the patch's delta.

vLLM runs adapters on experts with a GPU kernel only, so that answers are for a GPU to give.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from vllm.lora.layers.fused_moe import FusedMoEWithLoRA
from vllm.lora.request import LoRARequest

from moe_patch.checkpoint import open_checkpoint
from moe_patch.export.lora import to_lora
from moe_patch.export.lora_forms import form_for, usual_shape
from moe_patch.patch import Patch
from tests.serving.engines import Engine, base, folder, start
from tests.tiny import dense_delta, tiny_patch

ROOM = 8


def exported(model: str, patch: Patch, out: Path) -> Path:
    checkpoint = open_checkpoint(folder(model))
    form = form_for("vllm", usual_shape("vllm", checkpoint.base.model.config.model_type))
    adapter = to_lora(patch, checkpoint.base, form=form, name_of=checkpoint.stored_name)
    assert adapter.room == ROOM
    adapter.save(out)
    return out


def with_adapters(model: str) -> Engine:
    return start(model, enable_lora=True, max_loras=2, max_lora_rank=ROOM)


def loaded(engine: Engine, slot: int) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer, the down (E, d_m, d_k) and the gate and up products that stand in a slot."""
    found = {}
    for name, module in engine.model.named_modules():
        if isinstance(module, FusedMoEWithLoRA):
            down = module.w2_lora_b_stacked[0][slot] @ module.w2_lora_a_stacked[0][slot]
            sides = zip(module.w13_lora_b_stacked, module.w13_lora_a_stacked, strict=True)
            others = torch.cat([up[slot] @ down_[slot] for up, down_ in sides])
            found[int(name.split(".layers.")[1].split(".")[0])] = (down, others)
    return found


@pytest.mark.parametrize("model", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_what_an_engine_has_loaded_is_the_delta(model: str, tmp_path: Path) -> None:
    engine = with_adapters(model)
    patches = [tiny_patch(base(model), [1], seed=1), tiny_patch(base(model), [0, 2], seed=2)]
    for number, patch in enumerate(patches, start=1):
        path = exported(model, patch, tmp_path / str(number))
        assert engine.llm.llm_engine.add_lora(LoRARequest(f"adapter-{number}", number, str(path)))
    for slot, patch in enumerate(patches):
        for index, (down, others) in loaded(engine, slot).items():
            layer = base(model).layer(index)
            delta = patch.layers.get(index)
            wanted = torch.zeros(layer.shape) if delta is None else dense_delta(delta, layer)
            torch.testing.assert_close(
                down[:, : layer.d_model, : layer.d_key].float(), wanted, atol=1e-5, rtol=1e-5
            )
            assert not others.any()


def test_vllm_refuses_what_needs_more_room_than_it_has(tmp_path: Path) -> None:
    engine = with_adapters("qwen3_moe")
    path = exported("qwen3_moe", tiny_patch(base("qwen3_moe"), [1]), tmp_path / "adapter")
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"r": ROOM + 1}))
    with pytest.raises(ValueError, match="greater than max_lora_rank"):
        engine.llm.llm_engine.add_lora(LoRARequest("wide", 7, str(path)))
