"""The three families: what each model is like, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from recipes.training.trainer import Schedule, freeze_embeddings, routers

SIZES: dict[str, Any] = {
    "hidden_size": 160,
    "num_attention_heads": 5,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.04,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}


@dataclass(frozen=True)
class Family:
    """One small model: its type, what of its config differs from `SIZES`, and its training."""

    name: str
    model_type: str
    config: dict[str, Any]
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=10, batch=128, warm_up=40))


FAMILIES = {
    family.name: family
    for family in (
        # sliding attention in turn with full, sinks, biases, clamped activations, gates that add up to one
        Family(
            "gpt-oss",
            "gpt_oss",
            {
                "num_hidden_layers": 6,
                "num_key_value_heads": 5,
                "head_dim": 32,
                "intermediate_size": 96,
                "num_local_experts": 16,
                "num_experts_per_tok": 4,
                "sliding_window": 16,
                "rope_parameters": ROTARY,
            },
        ),
        # dense first layers, a shared expert, groups of experts, sigmoid gates, attention by latents
        Family(
            "deepseek",
            "deepseek_v3",
            {
                "num_hidden_layers": 7,
                "num_key_value_heads": 5,
                "intermediate_size": 320,
                "moe_intermediate_size": 64,
                "first_k_dense_replace": 2,
                "n_routed_experts": 16,
                "n_shared_experts": 1,
                "num_experts_per_tok": 4,
                "n_group": 4,
                "topk_group": 2,
                "routed_scaling_factor": 1.5,
                "kv_lora_rank": 64,
                "q_lora_rank": None,
                "qk_nope_head_dim": 32,
                "qk_rope_head_dim": 16,
                "v_head_dim": 32,
                "rope_parameters": ROTARY,
            },
            Schedule(epochs=10, batch=128, warm_up=40, enrich_layers=4),
        ),
        # two layers of state spaces for one of attention, each with a shared expert beside eight
        Family(
            "hybrid",
            "granitemoehybrid",
            {
                "num_hidden_layers": 6,
                "num_key_value_heads": 5,
                "layer_types": ["mamba", "mamba", "attention"] * 2,
                "intermediate_size": 128,
                "shared_intermediate_size": 64,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
                "mamba_n_heads": 5,
                "mamba_d_head": 64,
                "mamba_d_state": 16,
                "mamba_n_groups": 1,
                "mamba_expand": 2,
                "mamba_chunk_size": 8,
                "residual_multiplier": 0.5,
                "attention_multiplier": 32**-0.5,
                "logits_scaling": 1.0,
            },
            Schedule(epochs=7, batch=128, warm_up=40),
        ),
    )
}


def new_model(family: Family, vocabulary: int) -> nn.Module:
    """The family's model with first weights drawn from torch's generator."""
    config = AutoConfig.for_model(family.model_type, vocab_size=vocabulary, **SIZES | family.config)
    model = AutoModelForCausalLM.from_config(config)
    for router in routers(model):
        nn.init.normal_(router.weight, std=0.1)
    freeze_embeddings(model)
    return model
