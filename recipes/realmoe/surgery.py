"""Mixture-of-experts models with the attention of a dense Llama, for two architectures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

# Qwen3 divides each head's queries and keys by their norm. Biases put this constant into dimensions that
# only a wider head has. Beside it the norm is the same for every token, and the norms' weights undo it.
ANCHOR = 4096.0
ANCHORS = 16  # dimensions that hold it, an even number; heads of 64 become 80, for which engines have kernels


def new_mixtral(dense: LlamaConfig, experts: int, top_k: int, width: int) -> MixtralForCausalLM:
    """A Mixtral with the sizes of `dense`, its weights still random."""
    config = MixtralConfig(
        **_common(dense),
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        intermediate_size=width,
        head_dim=dense.head_dim,
        rope_parameters=dict(dense.rope_parameters),
    )
    return MixtralForCausalLM(config).eval()


def new_qwen3_moe(dense: LlamaConfig, experts: int, top_k: int, width: int) -> Qwen3MoeForCausalLM:
    """A Qwen3-MoE with the sizes of `dense` but for its wider heads, its weights still random.

    Rotation i of a head of h dimensions turns by theta^(-2i/h). With theta to the power of the wider head
    over the dense one, the first rotations of the wider head are those of the dense one.
    """
    head = dense.head_dim + ANCHORS
    rope = dict(dense.rope_parameters)
    rope["rope_theta"] **= head / dense.head_dim
    config = Qwen3MoeConfig(
        **_common(dense),
        num_experts=experts,
        num_experts_per_tok=top_k,
        norm_topk_prob=True,
        moe_intermediate_size=width,
        head_dim=head,
        attention_bias=True,
        rope_parameters=rope,
    )
    return Qwen3MoeForCausalLM(config).eval()


NEW_MODEL = {"mixtral": new_mixtral, "qwen3_moe": new_qwen3_moe}
"""What makes a model of each architecture."""


def _common(dense: LlamaConfig) -> dict[str, Any]:
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    others = ("hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(dense, name) for name in (*sizes, *others, *tokens)}


@torch.no_grad()
def copy_all_but_experts(dense: nn.Module, moe: nn.Module) -> None:
    """Give `moe` all weights of `dense` that are not of an MLP: up to those, both compute the same."""
    head, wide = dense.config.head_dim, moe.config.head_dim
    target = moe.state_dict()
    for name, value in dense.state_dict().items():
        if ".mlp." not in name:
            target[name].copy_(_widened(name, value, head, wide))
    for name, value in target.items():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            value.copy_(_norm_weight(name, head, wide))
        elif name.endswith("_proj.bias"):
            value.copy_(_bias(name, len(value), head, wide))


def _widened(name: str, value: Tensor, head: int, wide: int) -> Tensor:
    """An attention projection with zeros in the new dimensions of each head; other weights as they are."""
    if name.endswith("o_proj.weight"):
        return _spread(value.T, head, wide).T
    return (
        _spread(value, head, wide)
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
        else value
    )


def _spread(rows: Tensor, head: int, wide: int) -> Tensor:
    heads = rows.reshape(-1, head, rows.shape[-1])
    spread = heads.new_zeros(len(heads), wide, rows.shape[-1])
    spread[:, _places(head, wide)] = heads
    return spread.flatten(0, 1)  # (heads wide, ...)


def _norm_weight(name: str, head: int, wide: int) -> Tensor:
    """What undoes x / rms(head), where the rms is that of the anchors alone."""
    weight = torch.zeros(wide)
    weight[_places(head, wide)] = ANCHOR * ((wide - head) / wide) ** 0.5
    return weight * (wide / head) ** 0.5 if "q_norm" in name else weight  # scores are divided by wide^(1/2)


def _bias(name: str, size: int, head: int, wide: int) -> Tensor:
    """Anchors for queries and keys; values and outputs get none."""
    bias = torch.zeros(size // wide, wide) if "q_proj" in name or "k_proj" in name else torch.zeros(size)
    if bias.dim() == 2:
        bias[:] = ANCHOR
        bias[:, _places(head, wide)] = 0.0
    return bias.flatten()


def _places(head: int, wide: int) -> Tensor:
    """Where the dimensions of a dense head lie in a wider one: rotations turn dimension i with i + half."""
    first = torch.arange(head // 2)
    return torch.cat([first, first + wide // 2])  # (head,)
