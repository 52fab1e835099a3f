"""What the tiny configs of model types need beside the common sizes, and what keeps a type from a try."""

from __future__ import annotations

from typing import Any

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

_DENSE_FIRST: dict[str, Any] = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
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
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**_QWEN, "norm_topk_prob": True},
    "mixtral": _FEW,
    "gpt_oss": {**_FEW, **_SLIDING, "intermediate_size": 32},  # square down projections, stored transposed
    "afmoe": {**_QWEN, **_SLIDING, "num_dense_layers": 1, "num_shared_experts": 1},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": {**_DEEPSEEK, **_LATENT},
    "axk2": {**_DEEPSEEK, **_LATENT, **_INDEXED},
    "bailing_hybrid": {**_DEEPSEEK, **_LATENT, "num_local_experts": 8, "layer_types": _LINEAR["layer_types"]},
    "beam": {**_QWEN, **_SLIDING, **_DENSE_FIRST, "n_group": 2, "topk_group": 1},
    "cohere2_moe": {**_QWEN, "logit_scale": 1.0},
    "deepseek_v2": {**_DEEPSEEK, **_LATENT, "routed_scaling_factor": 1.5},
    "deepseek_v3": {**_DEEPSEEK, **_LATENT},
    "deepseek_v32": {**_DEEPSEEK, **_LATENT, **_INDEXED},
    "dots1": _DEEPSEEK,
    "dots3_note_text": {
        **_DEEPSEEK,
        **_LATENT,
        "head_dim": 16,
        "per_layer_config": {2: {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 24}},
    },
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
    "gemma4": {},
    "gemma4_text": _GEMMA,
    "glm4_moe": _DEEPSEEK,
    "glm4_moe_lite": {**_DEEPSEEK, **_LATENT},
    "glm4v_moe": {},
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
    "kimi_linear": {
        **_DEEPSEEK,
        "num_local_experts": 8,
        **_LATENT,
        "q_lora_rank": None,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "layer_types": _LINEAR["layer_types"],
    },
    "kolibri1": {**_DEEPSEEK, "num_experts": 8},
    "laguna": _QWEN_SHARED,
    "lara_mini": {
        **_QWEN_SHARED,
        **_LINEAR,
        "layer_types": ["linear_attention", "sliding_attention", "linear_attention"],
        "sliding_window": 16,
    },
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
    "mistral4": {**_DEEPSEEK, **_LATENT, "head_dim": 16},
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
    "qwen3_vl_moe": {},
    "solar_open": _DEEPSEEK,
    "zaya": {"num_experts": 4, "moe_intermediate_size": 24},
}
"""Types that can be edited; for those without an entry the registry shrinks their usual config."""

NOT_ALONE: dict[str, dict[str, Any]] = {
    "deepseek_ocr2_text": {**_DEEPSEEK, **_DENSE_FIRST, "num_key_value_heads": 4},
    "deepseek_v4": {**_DEEPSEEK, **_LATENT, "mlp_layer_types": ["hash_moe", "moe", "moe"]},
    "diffusion_gemma_text": _GEMMA,
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [24, 24],
        "moe_num_experts": 8,
        "moe_k": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    },
    "glm4v_moe_text": {
        **_DEEPSEEK,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]},
    },
    "glm5_next_text": {
        **_DEEPSEEK,
        **_LATENT,
        **_INDEXED,
        "qk_rope_head_dim": 0,
        "index_kpool": 4,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "layer_types": _LINEAR["layer_types"],
        **_DENSE_FIRST,
    },
    "hy_v4_vl_text": {
        **_DEEPSEEK,
        **_LATENT,
        **_INDEXED,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    },
    "mistral_large4_text": {**_DEEPSEEK, **_LATENT, **_INDEXED},
    "muse_spark_text": {
        "moe_intermediate_size": 24,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "moe_hidden_size": 16,
    },
    "qwen3_vl_moe_text": _QWEN,
    "step3p5": {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, **_DENSE_FIRST},
    "unlimited_ocr_text": {**_DEEPSEEK, **_DENSE_FIRST, "num_key_value_heads": 4},
}
"""Types that are refused, or are opened only as the text model of a composite."""

PARTS: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "diffusion_gemma": {"vision_config": {"model_type": "gemma4_vision", "num_hidden_layers": 1}},
    "doge": {"is_moe": True},
    "dots3_note": {
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32, "num_hidden_layers": 42},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "janus": {"vq_config": {"base_channels": 32, "channel_multiplier": [1, 1], "num_embeddings": 16}},
    "muse_spark": {"audio_config": {"patch_sizes": [4], "hidden_sizes": [32], "depths": [1]}},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 5},
}
"""What a shrunk config still needs, within its parts and beside them."""

TEXT = {
    "cosmos3_omni": "qwen3_vl_moe_text",
    "glm46v": "glm4v_moe_text",
    "glmga": "glm4v_moe_text",
    "hyperclovax_vision_v2": "granitemoe",
    "mistral3": "mistral4",
}
"""The text models that composites are tried with which do not take Mixtral, or usually come with another."""

CLOSED = {
    "florence2": "an encoder and a decoder",
    "gemma4_assistant": "drafts for another model, whose keys it uses",
    "gemma4_unified_assistant": "drafts for another model, whose keys it uses",
    "granite4_vision": "takes no text model but Granite, in older releases of transformers",
    "paligemma": "takes no text model but Gemma",
    "shieldgemma2": "classifies images",
}
"""Composites that take no text model with experts, although their configs do not say so."""

NEEDS_PACKAGE = {"fast_vlm": "timm", "inkling_mm_model": "scipy", "perception_lm": "timm"}
"""Types whose images need a package that moe-patch does not install; they are tried where it is."""
