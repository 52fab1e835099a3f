"""Tiny random models of real architectures, a tokenizer built in memory, and random patches, for tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.base.opening import wrap
from moe_patch.data.facts import Fact
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows

VOCABULARY = 256 + 4
PAD, BOS, EOS, UNK = range(4)

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "initializer_range": 0.2,
}
_FEW: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_QWEN: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3}
_QWEN_SHARED: dict[str, Any] = {**_QWEN, "shared_expert_intermediate_size": 24}
_LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_DEEPSEEK: dict[str, Any] = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_INDEXED: dict[str, Any] = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
_SLIDING: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "sliding_window": 16,
}

_GEMMA: dict[str, Any] = {
    **_SLIDING,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
    "enable_moe_block": True,
    "hidden_size_per_layer_input": 0,
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
    "num_kv_shared_layers": 0,
}
_VISION: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**_QWEN, "norm_topk_prob": True},
    "mixtral": _FEW,
    "gpt_oss": {**_FEW, **_SLIDING, "intermediate_size": 32},  # square down projections, stored transposed
    "afmoe": {**_QWEN, **_SLIDING, "num_dense_layers": 1, "num_shared_experts": 1},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": {**_DEEPSEEK, **_LATENT},
    "cohere2_moe": {**_QWEN, "logit_scale": 1.0},
    "deepseek_v2": {**_DEEPSEEK, **_LATENT, "routed_scaling_factor": 1.5},
    "deepseek_v3": {**_DEEPSEEK, **_LATENT},
    "deepseek_v32": {**_DEEPSEEK, **_LATENT, **_INDEXED},
    "deepseek_v4": {**_DEEPSEEK, **_LATENT, "mlp_layer_types": ["hash_moe", "moe", "moe"]},
    "dots1": _DEEPSEEK,
    "ernie4_5_moe": {
        "moe_intermediate_size": 24,
        "moe_num_experts": 8,
        "moe_k": 3,
        "moe_layer_start_index": 1,
        "moe_num_shared_experts": 1,
    },
    "exaone_moe": {
        **_QWEN,
        **_SLIDING,
        "n_group": 1,
        "topk_group": 1,
        "num_shared_experts": 1,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "flex_olmo": {"num_experts": 8, "num_experts_per_tok": 3},
    "flint": {**_QWEN, "mlp_only_layers": [0], "shared_expert_intermediate_size": 24},
    "gemma4": {"text_config": {**COMMON, **_GEMMA}, "vision_config": _VISION},  # text inside a composite
    "gemma4_text": _GEMMA,
    "glm4_moe": _DEEPSEEK,
    "glm4_moe_lite": {**_DEEPSEEK, **_LATENT},
    "glm4v_moe_text": {
        **_DEEPSEEK,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]},
    },
    "glm_moe_dsa": {**_DEEPSEEK, **_LATENT, **_INDEXED},
    "granitemoe": _FEW,
    "granitemoe_swa": _FEW,
    "granitemoehybrid": {
        **_FEW,
        "shared_intermediate_size": 24,
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
        "mamba_expand": 2,
    },
    "granitemoeshared": {**_FEW, "shared_intermediate_size": 24},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "hy_v3": {**_QWEN, "num_shared_experts": 1},
    "jamba": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 0,
    },
    "kolibri1": {**_DEEPSEEK, "num_experts": 8},
    "laguna": _QWEN_SHARED,
    "lfm2_moe": {
        **_QWEN,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention", "conv"],
        "use_expert_bias": True,
    },
    "mellum": _QWEN,
    "mimo_v2_flash": _DEEPSEEK,
    "minimax": {
        **_FEW,
        "block_size": 8,
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    "minimax_m2": {**_FEW, "intermediate_size": 24},
    "muse_spark_text": {
        "moe_intermediate_size": 24,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "moe_hidden_size": 16,
    },
    "nemotron_h": {
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_shared_expert_intermediate_size": 24,
        "n_group": 1,
        "topk_group": 1,
        "layers_block_type": ["moe", "attention", "moe"],
    },
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 32},  # square
    "phimoe": _FEW,
    "qwen2_moe": _QWEN_SHARED,
    "qwen3_5_moe_text": {**_QWEN_SHARED, **_LINEAR},
    "qwen3_next": {**_QWEN_SHARED, **_LINEAR},
    "qwen3_vl_moe_text": _QWEN,
    "solar_open": _DEEPSEEK,
    "zaya": {"num_experts": 4, "moe_intermediate_size": 24},
}
_ROUTED_SINCE = {
    "aria_text": Version("5.18")
}  # older than the release that routes its experts through the interface

CONFIGS = {
    model_type: config
    for model_type, config in _CONFIGS.items()
    if model_type in CONFIG_MAPPING_NAMES
    and Version(transformers.__version__) >= _ROUTED_SINCE.get(model_type, Version("5"))
}
"""What each model type of this transformers release needs beside the common sizes."""


def auto_class(model_type: str) -> Any:
    """What opens models of this type: with a language modelling head where transformers has one for it."""
    return AutoModelForCausalLM if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModel


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> nn.Module:
    """A random fp32 model of `model_type` in eval mode: hidden 32, three layers, 4 to 8 experts.

    What the architecture initialises to a constant, such as norms, biases and routing corrections, is made
    random too.
    """
    config = AutoConfig.for_model(model_type, **{**COMMON, **CONFIGS.get(model_type, {}), **overrides})
    torch.manual_seed(seed)
    model = auto_class(model_type).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for buffer in model.buffers():
            if buffer.is_floating_point() and not buffer.any():
                buffer.normal_(std=0.1)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token per byte, exact offsets, any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, "<unk>": UNK}
    vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_base(model_type: str, seed: int = 0, **overrides: Any) -> Base:
    """`tiny_model` with the in-memory tokenizer, as a Base."""
    return wrap(tiny_model(model_type, seed, **overrides), tiny_tokenizer(), name=f"tiny-{model_type}")


def tiny_batch(rows: int = 3, length: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and a mask, (rows, length) each; row 0 is padded on the left, row 1 on the right."""
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, : length // 3] = 0
    mask[1, -(length // 4) :] = 0
    return torch.where(mask.bool(), ids, PAD), mask


def tiny_delta(layer: MoELayer, facts: int = 4, seed: int = 0, scale: float = 0.3) -> LayerDelta:
    """A random delta: a fact reaches an expert or does not; the first fact reaches all, none the last."""
    generator = torch.Generator().manual_seed(seed)
    reached = torch.rand(layer.num_experts, facts, generator=generator) < 0.6  # (E, T)
    reached[:, 0] = True
    reached[-1] = False
    expert, fact = reached.nonzero(as_tuple=True)  # sorted by expert, then fact
    left = scale * torch.randn(facts, layer.d_model, generator=generator)
    value = scale * torch.randn(len(expert), layer.d_key, generator=generator)
    return LayerDelta.from_solution(left, Rows(value, expert, fact, facts), residual=None, ridge=1.0)


def tiny_patch(base: Base, layers: list[int] | None = None, seed: int = 0, scale: float = 0.3) -> Patch:
    """A patch of random deltas for some layers of `base`, all MoE layers unless named."""
    layers = list(base.layers) if layers is None else layers
    return Patch(
        kind="delta",
        method="random",
        hyperparameters={"seed": seed},
        base=base.fingerprint(layers),
        facts=tuple(Fact(f"fact-{i}", "{} lies in", f"Town {i}", f"Land {i}") for i in range(4)),
        results=(),
        layers={index: tiny_delta(base.layer(index), seed=seed + index, scale=scale) for index in layers},
    )


def dense_delta(delta: LayerDelta, layer: MoELayer) -> torch.Tensor:
    """The delta of every expert, (E, d_m, d_k), summed row by row."""
    dense = torch.zeros(layer.num_experts, layer.d_model, layer.d_key)
    for row, (expert, fact) in enumerate(
        zip(delta.rows.expert.tolist(), delta.rows.fact.tolist(), strict=True)
    ):
        dense[expert] += torch.outer(delta.left[fact], delta.rows.value[row])
    return dense
