"""Opening, naming, refusing and fingerprinting base models."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

from moe_patch.apply import apply
from moe_patch.base.capture import capture_keys
from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.base.opening import open_base, wrap
from moe_patch.checkpoint import open_checkpoint
from moe_patch.errors import ModelError, PromptError
from tests.architectures.configs import COMMON, VOCABULARY
from tests.tiny import auto_class, tiny_base, tiny_batch, tiny_model, tiny_patch


def saved(base: Base, folder: Path) -> Path:
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def bare(model_type: str, **overrides: Any) -> nn.Module:
    """A model without weights, of a type that the library refuses."""
    with torch.device("meta"):
        return auto_class(model_type).from_config(AutoConfig.for_model(model_type, **{**COMMON, **overrides}))


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gemma4", "granitemoehybrid"])
def test_texts_are_read_within_the_models_limits(model_type: str) -> None:
    base = tiny_base(model_type)
    assert (base.reader.positions, base.reader.rows) == (128, VOCABULARY)
    assert base.reader.read_prompt("a" * 128, chat=False)
    with pytest.raises(PromptError, match="129 tokens long, and the model has 128 positions"):
        base.reader.read_prompt("a" * 129, chat=False)


def test_layers_and_their_shapes() -> None:
    base = tiny_base("deepseek_v3")
    assert list(base.layers) == [1, 2]
    assert base.num_layers == len(base.decoder_layers) == 3
    assert base.hidden_size == 32
    layer = base.layer(1)
    assert (layer.name, layer.layout, layer.shape) == ("model.layers.1.mlp.experts", "out_in", (8, 32, 24))
    assert layer.warning is None


def test_a_dense_layer_and_one_out_of_range_are_refused() -> None:
    base = tiny_base("deepseek_v3")
    with pytest.raises(ModelError, match="layer 0 of tiny-deepseek_v3 is dense; its MoE layers are 1-2"):
        base.layer(0)
    for index in (3, -1):
        with pytest.raises(
            ModelError, match=f"layer {index} is out of range: tiny-deepseek_v3 has layers 0 to 2"
        ):
            base.layer(index)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_down_is_a_view_of_the_right_orientation(model_type: str) -> None:
    layer = tiny_base(model_type).layer(1)
    experts: Any = layer.experts
    down, stored = layer.down(2), experts.down_proj[2]
    assert torch.equal(down, stored.T if layer.layout == "in_out" else stored)
    down[3, 5] = 7.0
    assert experts.down_proj[2][(5, 3) if layer.layout == "in_out" else (3, 5)].item() == 7.0
    with pytest.raises(ModelError, match="experts 0 to"):
        layer.down(layer.num_experts)


@pytest.mark.parametrize(
    ("model_type", "overrides", "reason"),
    [
        ("llama", {}, "llama is a dense model"),
        ("doge", {"is_moe": False}, "doge is a dense model"),
        ("doge", {"is_moe": True, "num_experts": 16}, "rank-one rows of an embedding"),
        (
            "llama4_text",
            {"num_local_experts": 4, "intermediate_size_mlp": 48},
            "multiply the experts' inputs",
        ),
        ("jetmoe", {"num_local_experts": 4}, "share one bias"),
        ("longcat_flash", {"n_routed_experts": 4, "zero_expert_num": 2, "num_layers": 2}, "identities"),
        ("step3p7", {"moe_num_experts": 4}, "do not run through transformers' experts interface"),
        (
            "dbrx",
            {
                "d_model": 32,
                "n_heads": 4,
                "n_layers": 2,
                "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4},
                "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "hidden_size": 32},
            },
            "stacked in one matrix",
        ),
    ],
)
def test_a_model_that_cannot_be_edited_is_refused(
    model_type: str, overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        wrap(bare(model_type, **overrides), tokenizer=None)


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match="not Linear"):
        wrap(nn.Linear(2, 2), tokenizer=None)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_experts_are_refused(dtype: torch.dtype) -> None:
    model: Any = tiny_model("qwen3_moe")
    experts = model.model.layers[1].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.to(dtype), requires_grad=False)
    with pytest.raises(
        ModelError, match=rf"layers\.1\.mlp\.experts\.down_proj is quantised or sharded \({dtype}\)"
    ):
        wrap(model, tokenizer=None)


def test_weights_that_were_never_loaded_are_refused() -> None:
    base = wrap(bare("qwen3_moe", num_experts=4, moe_intermediate_size=24), tokenizer=None)
    with pytest.raises(ModelError, match="has no data"):
        base.fingerprint([0])


def test_a_layer_that_is_not_exact_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="moe_patch.base.opening"):
        base = tiny_base("afmoe")
    assert caplog.messages == [f"afmoe: {base.layer(1).warning}"]


def test_open_a_folder(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    opened = open_base(saved(base, tmp_path))
    assert opened.name == str(tmp_path)
    assert opened.tokenizer("Lyon")["input_ids"] == base.tokenizer("Lyon")["input_ids"]
    assert opened.layer(1).dtype == torch.float32
    assert open_base(tmp_path, dtype=torch.bfloat16).layer(1).dtype == torch.bfloat16
    assert not opened.model.training


def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot open the model"):
        open_base(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_nothing_waits_for_a_pipe_or_reads_a_file_as_a_folder(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for reads in (open_base, open_checkpoint):
        with pytest.raises(ModelError, match=rf"{name} is a pipe or a device"):
            reads(tmp_path)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ModelError, match="it is a file; name its folder"):
        open_base(tmp_path / "file")


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    weights = saved(tiny_base("qwen3_moe"), tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.2.mlp.gate.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks 1 weights, the first of them model\.layers\.2\.mlp\.gate\.weight"
    ):
        open_base(tmp_path)


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    weights = saved(tiny_base("qwen3_moe"), tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot open the model"):
        open_base(tmp_path)


@pytest.mark.parametrize(
    ("file", "field", "value", "message"),
    [
        ("config.json", "hidden_size", 64, r"weights of other shapes.*lm_head.weight: it is \(260, 32\)"),
        ("config.json", "num_attention_heads", 0, "cannot open the model .*ZeroDivisionError"),
        ("config.json", "num_experts_per_tok", 99, "cannot run the model .*although it opens: RuntimeError"),
        ("config.json", "hidden_act", "what", "cannot open the model .*KeyError: 'what'"),
        ("tokenizer.json", "model", {"type": "BPE"}, "cannot open the tokenizer of .*Missing vocab"),
        ("tokenizer.json", "added_tokens", 3, "cannot open the tokenizer of .*TypeError"),
        ("tokenizer_config.json", "model_max_length", "x", "cannot open the tokenizer of .*TypeError"),
        (
            "generation_config.json",
            "eos_token_id",
            "x",
            "the eos_token_id 'x': expected a token's number",
        ),
    ],
)
def test_a_value_that_no_model_can_have_is_one_clear_error(
    tmp_path: Path, file: str, field: str, value: object, message: str
) -> None:
    path = saved(tiny_base("qwen3_moe"), tmp_path) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ModelError, match=message):
        open_base(tmp_path)


def test_a_config_left_by_a_training_opens(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    path = saved(base, tmp_path) / "config.json"
    left = {"output_router_logits": True, "output_hidden_states": True, "return_dict": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | left))
    opened = open_base(tmp_path)
    assert continue_rows(opened, [(5, 6)], 3) == continue_rows(base, [(5, 6)], 3)
    assert opened.fingerprint([1]) == base.fingerprint([1])


def test_an_index_that_names_no_weights_is_one_clear_error(tmp_path: Path) -> None:
    weights = saved(tiny_base("qwen3_moe"), tmp_path) / "model.safetensors"
    named = dict.fromkeys(load_file(weights), "config.json")
    weights.unlink()
    index = {"metadata": {}, "weight_map": named}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="cannot open the model"):
        open_base(tmp_path)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cpu:x", "xla:7", ""])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name: str) -> None:
    with pytest.raises(ModelError, match=f"there is no device '{name}' here: this machine has cpu"):
        open_base(device_map=name)
    with pytest.raises(ModelError, match=f"there is no device '{name}' here"):
        open_base(device_map={"model": "cpu", "lm_head": name})


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_a_base_partly_on_disk(model_type: str, tmp_path: Path) -> None:
    base = tiny_base(model_type)
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    blocks = {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    folder = saved(base, tmp_path / "model")
    opened = open_base(folder, device_map=places | blocks, offload_folder=tmp_path / "offloaded")
    assert [layer.offloaded for layer in opened.layers.values()] == [False, True, True]
    assert torch.equal(opened.layer(1).down(3), base.layer(1).down(3))
    assert opened.fingerprint([0, 1]) == base.fingerprint([0, 1])
    ids, mask = tiny_batch()
    columns = torch.tensor([8, 2, 8])
    found, expected = (capture_keys(each, ids, mask, columns, [2])[2].keys for each in (opened, base))
    torch.testing.assert_close(found, expected)
    patch = tiny_patch(base)
    with pytest.raises(ModelError, match="is offloaded, so merged weights would be overwritten"):
        apply(opened, patch)
    with apply(opened, patch, mode="hook"), apply(base, patch, mode="hook"), torch.no_grad():
        torch.testing.assert_close(opened.model(input_ids=ids).logits, base.model(input_ids=ids).logits)


class TestFingerprint:
    def test_split_on_disk_and_packed_in_memory_agree(self, tmp_path: Path) -> None:
        base = tiny_base("qwen3_moe")
        names = load_file(saved(base, tmp_path) / "model.safetensors")
        assert "model.layers.1.mlp.experts.3.down_proj.weight" in names
        assert open_base(tmp_path).fingerprint([0, 1, 2]) == base.fingerprint([0, 1, 2])

    def test_transposed_and_plain_layouts_agree(self) -> None:
        plain, transposed = tiny_base("granitemoe"), tiny_base("gpt_oss", intermediate_size=48)
        assert (plain.layer(1).layout, transposed.layer(1).layout) == ("out_in", "in_out")
        assert plain.layer(1).shape == transposed.layer(1).shape
        for expert in range(4):
            transposed.layer(1).down(expert).copy_(plain.layer(1).down(expert))
        assert plain.fingerprint([1]).experts == transposed.fingerprint([1]).experts

    def test_half_precision_opened_wide_is_the_same_base(self, tmp_path: Path) -> None:
        base = tiny_base("qwen3_moe")
        full = base.fingerprint([1])
        base.model.to(torch.bfloat16)
        saved(base, tmp_path)
        half, wide = open_base(tmp_path), open_base(tmp_path, dtype=torch.float32)
        assert (half.layer(1).dtype, wide.layer(1).dtype) == (torch.bfloat16, torch.float32)
        assert half.fingerprint([1]) == wide.fingerprint([1])
        assert half.fingerprint([1]).experts != full.experts

    def test_volatile_settings_do_not_count(self, tmp_path: Path) -> None:
        base = tiny_base("qwen3_moe")
        folder = saved(base, tmp_path)
        config = json.loads((folder / "config.json").read_text())
        config |= {"transformers_version": "5.99.0", "use_cache": False, "torch_dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config))
        assert open_base(folder, dtype=torch.float32).fingerprint([1]) == base.fingerprint([1])
        base.model.set_experts_implementation("eager")
        assert open_base(folder).fingerprint([0]) == base.fingerprint([0])

    def test_weights_config_and_size_each_count(self) -> None:
        first = tiny_base("qwen3_moe").fingerprint([0, 1])
        assert tiny_base("qwen3_moe").fingerprint([0, 1]) == first
        assert tiny_base("qwen3_moe", seed=1).fingerprint([0, 1]).experts != first.experts
        routed = tiny_base("qwen3_moe", norm_topk_prob=False).fingerprint([0, 1])
        assert (routed.index, routed.experts) == (first.index, first.experts)
        assert routed.config != first.config
        assert tiny_base("qwen3_moe", num_hidden_layers=4).fingerprint([0, 1]).index != first.index

    def test_one_changed_expert_changes_its_layer_only(self) -> None:
        base, other = tiny_base("qwen3_moe"), tiny_base("qwen3_moe")
        other.layer(1).down(7)[31, 23] += 1.0
        first, second = base.fingerprint([0, 1]).experts, other.fingerprint([0, 1]).experts
        assert (first[0] == second[0], first[1] == second[1]) == (True, False)

    def test_it_names_the_layers_asked_for(self) -> None:
        found = tiny_base("gpt_oss").fingerprint([2, 0])
        assert found.model_type == "gpt_oss"
        assert list(found.experts) == [0, 2]
        assert found.shapes == {0: (4, 32, 32), 2: (4, 32, 32)}
        assert all(
            value.startswith("sha256:") for value in (found.config, found.index, *found.experts.values())
        )
