"""The tensors and configs that each reader gets; tests/serving loads them into vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.checkpoint import open_checkpoint
from moe_patch.errors import ConfigError, PatchError
from moe_patch.export.lora import Adapter, to_lora
from moe_patch.export.lora_forms import Shape, form_for, usual_shape
from tests.checkpoint.folders import opened, saved
from tests.tiny import tiny_base, tiny_batch, tiny_patch


def adapter_for_vllm(model_type: str, shape: Shape, folder: Path) -> tuple[Any, Any, Adapter]:
    checkpoint = open_checkpoint(saved(folder / "base", model_type))
    base = opened(checkpoint.folder, model_type)
    patch = tiny_patch(base, [1], scale=1.0)
    form = form_for("vllm", shape)
    return base, patch, to_lora(patch, checkpoint.base, form=form, name_of=checkpoint.stored_name)


@pytest.mark.parametrize(
    ("model_type", "parts"),
    [("qwen3_moe", ("down_proj", "gate_proj", "up_proj")), ("mixtral", ("w1", "w2", "w3"))],
)
def test_the_split_form_is_complete_and_pads_with_rank_one(
    model_type: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    base, _, adapter = adapter_for_vllm(model_type, "split", tmp_path)
    stems = {name.rpartition(".lora_")[0] for name in adapter.tensors}
    assert len(stems) == 3 * base.layer(1).num_experts
    assert {stem.rpartition(".")[2] for stem in stems} == set(parts)
    assert adapter.config["target_modules"] == sorted(parts)
    assert set(adapter.config["rank_pattern"]) == set(parts) - {"down_proj", "w2"}
    for name, tensor in adapter.tensors.items():
        padding = name.split(".")[-3] in adapter.config["rank_pattern"]
        rank = tensor.shape[0 if ".lora_A." in name else 1]
        assert rank == (1 if padding else adapter.rank)
        assert not padding or not tensor.any()


def test_peft_reads_vllms_packed_form_as_the_same_change(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, patch, adapter = adapter_for_vllm("gpt_oss", "packed", tmp_path)
    adapter.save(tmp_path / "adapter")
    ids, mask = tiny_batch()
    with torch.no_grad():
        plain = base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        with apply(base, patch):
            merged = base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        model = peft.PeftModel.from_pretrained(base.model, tmp_path / "adapter")
        adapted = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(adapted, merged, atol=2e-5, rtol=2e-5)
    assert (adapted - plain).abs().max() > 0.05


def test_vllm_has_room_for_some_ranks_only() -> None:
    form = form_for("vllm", "split")
    assert [form.room(rank) for rank in (1, 2, 8, 9, 50, 257, 512)] == [1, 8, 8, 16, 64, 320, 512]
    with pytest.raises(PatchError, match="needs rank 513, but 512 is the highest"):
        form.room(513)
    assert form_for("peft", "split").room(513) == 513


def test_the_shape_follows_the_reader_and_the_architecture() -> None:
    assert usual_shape("peft", "qwen3_moe") == "packed"
    assert usual_shape("vllm", "qwen3_moe") == "split"
    assert usual_shape("vllm", "gpt_oss") == "packed"
    with pytest.raises(ConfigError, match="choose from packed for peft"):
        form_for("peft", "flat")  # type: ignore[arg-type]


def test_a_name_without_known_companions_is_refused() -> None:
    base = tiny_base("qwen3_moe")
    form = form_for("vllm", "split")
    with pytest.raises(PatchError, match="expected a name that ends in down_proj, w2"):
        to_lora(tiny_patch(base, [1]), base, form=form, name_of=lambda layer, expert: f"experts.{expert}.out")
