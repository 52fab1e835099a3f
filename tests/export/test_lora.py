"""Adapters loaded in PEFT, compared with merged models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.checkpoint import open_checkpoint
from moe_patch.errors import OutputError, PatchError
from moe_patch.export.lora import to_lora
from moe_patch.export.lora_forms import Split
from moe_patch.patch.rows import Rows
from tests.checkpoint.folders import opened, saved
from tests.tiny import dense_delta, tiny_base, tiny_batch, tiny_patch, tiny_whole_patch

peft = pytest.importorskip("peft")


def logits(model: Any) -> Tensor:
    ids, mask = tiny_batch()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


def agrees_with_the_merged_model(base: Base, folder: Path, patch: Any) -> bool:
    plain = logits(base.model)
    with apply(base, patch):
        merged = logits(base.model)
    adapted = logits(peft.PeftModel.from_pretrained(base.model, folder))
    torch.testing.assert_close(adapted, merged, atol=2e-5, rtol=2e-5)
    return bool((adapted - plain).abs().max() > 0.05)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "gpt_oss", "olmoe", "deepseek_v3"])
def test_the_packed_form_gives_the_merged_models_logits(model_type: str, tmp_path: Path) -> None:
    base = tiny_base(model_type)
    patch = tiny_patch(base, scale=1.0)
    adapter = to_lora(patch, base)
    adapter.save(tmp_path / "adapter")
    assert (
        adapter.rank
        == adapter.needed
        == json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"]
    )
    assert agrees_with_the_merged_model(base, tmp_path / "adapter", patch)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_a_dense_patch_is_an_adapter_of_full_rank(model_type: str, tmp_path: Path) -> None:
    base = tiny_base(model_type)
    patch = tiny_whole_patch(base)
    adapter = to_lora(patch, base)
    layer = base.layer(0)
    assert adapter.rank == min(layer.d_model, layer.d_key)
    adapter.save(tmp_path / "adapter")
    assert agrees_with_the_merged_model(base, tmp_path / "adapter", patch)


def test_a_dense_patch_can_be_truncated_to_what_its_facts_need() -> None:
    base = tiny_base("qwen3_moe")
    patch = tiny_whole_patch(base)  # four facts, so the outputs for their keys have rank four
    assert to_lora(patch, base, max_rank=4, truncate=True).lost["worst"] < 1e-4
    assert to_lora(patch, base, max_rank=1, truncate=True).lost["worst"] > 0.1


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "olmoe"])
def test_the_split_form_gives_the_merged_models_logits(model_type: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(tmp_path / "base", model_type))
    base = opened(checkpoint.folder, model_type)
    patch = tiny_patch(base, [1], scale=1.0)
    adapter = to_lora(patch, checkpoint.base, form=Split(), name_of=checkpoint.stored_name)
    assert len(adapter.tensors) == 2 * checkpoint.base.layer(1).num_experts
    adapter.save(tmp_path / "adapter")
    assert agrees_with_the_merged_model(base, tmp_path / "adapter", patch)


def delta_of(adapter: Any, base: Base, index: int) -> Tensor:
    """(E, d_m, d_k) the deltas of the split form."""
    name = f"base_model.model.{base.layer(index).name}"
    parts = (f"{name}.{expert}.down_proj" for expert in range(base.layer(index).num_experts))
    return torch.stack(
        [
            adapter.tensors[f"{part}.lora_B.weight"] @ adapter.tensors[f"{part}.lora_A.weight"]
            for part in parts
        ]
    )


def test_more_facts_than_a_side_is_wide_are_still_exact() -> None:
    base = tiny_base("qwen3_moe")
    patch = many_rows(base, facts=60)
    adapter = to_lora(patch, base, form=Split())
    assert adapter.rank == 24  # d_k, below the 60 rows that reach expert 0
    expected = dense_delta(patch.layers[1], base.layer(1))
    torch.testing.assert_close(delta_of(adapter, base, 1), expected, atol=1e-4, rtol=1e-4)


def many_rows(base: Base, facts: int) -> Any:
    from tests.tiny import tiny_delta

    patch = tiny_patch(base, [1])
    delta = tiny_delta(base.layer(1), facts=facts)
    everyone = torch.arange(facts)
    rows = Rows(torch.randn(facts, 24), torch.zeros_like(everyone), everyone, facts)
    first = dataclasses.replace(delta, rows=rows, fact_rows=rows)
    return dataclasses.replace(patch, layers={1: first})


def test_too_high_a_rank_is_refused_with_what_a_truncation_would_cost() -> None:
    base = tiny_base("qwen3_moe")
    patch = many_rows(base, facts=10)
    with pytest.raises(PatchError, match=r"needs rank 10, but 4 is the highest.*loses [0-9.]+% of the worst"):
        to_lora(patch, base, max_rank=4)
    assert to_lora(patch, base, max_rank=10).lost == {"worst": 0.0, "median": 0.0}


def test_a_truncation_is_the_best_one_on_the_facts_keys_and_its_error_is_stated() -> None:
    base = tiny_base("qwen3_moe")
    patch = many_rows(base, facts=10)
    adapter = to_lora(patch, base, form=Split(), max_rank=4, truncate=True)
    exact, found = dense_delta(patch.layers[1], base.layer(1))[0], delta_of(adapter, base, 1)[0]
    keys = patch.layers[1].rows.value.T  # (d_k, T)
    assert int(torch.linalg.matrix_rank(found, rtol=1e-4)) == 4
    error = (found - exact) @ keys
    singular = torch.linalg.svdvals(exact @ keys)
    assert float(error.norm()) == pytest.approx(float(singular[4:].norm()), rel=1e-3)
    shares = error.norm(dim=0) / (exact @ keys).norm(dim=0)
    assert adapter.lost["worst"] == pytest.approx(float(shares.max()), rel=1e-3)
    assert adapter.lost["median"] == pytest.approx(float(shares.median()), rel=1e-3)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    patch = tiny_patch(base, [1])
    with pytest.raises(PatchError, match="kind 'bypass'"):
        to_lora(dataclasses.replace(patch, kind="bypass"), base)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputError, match="exists already"):
        to_lora(patch, base).save(tmp_path / "full")
