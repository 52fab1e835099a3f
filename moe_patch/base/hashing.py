"""The hashes that a base's fingerprint is made of."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from moe_patch.base.dense import DenseLayer
from moe_patch.base.moe import MoELayer

_VOLATILE_CONFIG = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",  # tools set these to suit a tokenizer, and no forward pass depends on them
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "experts_implementation",
    "layer_types",  # some releases name a layer's kind differently; the index says which layers are MoE
    "mlp_layer_types",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "quantization_config",  # says how weights are stored; what they are, the experts' hashes say
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def down_hash(layer: MoELayer | DenseLayer) -> str:
    """SHA-256 over the layer's down projections as the base has them, in expert order.

    Each is oriented (d_m, d_k) and hashed as little-endian fp32, so packed, split and transposed layouts
    agree, and so does a bf16 checkpoint opened as fp32. Experts that a merge has changed count with their
    kept originals.
    """
    digest = hashlib.sha256()
    with layer.weights() as stacked:
        for expert in range(layer.num_experts):
            down = layer.originals.get(expert, stacked[expert])
            digest.update(down.float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return f"sha256:{digest.hexdigest()}"


def settled_config(config: Any) -> dict[str, Any]:
    """What sets the config apart from its class's defaults, so that a new release's fields change nothing."""
    defaults = type(config)().to_dict()
    settled = config.to_dict()
    return {
        key: value
        for key, value in settled.items()
        if key not in _VOLATILE_CONFIG and (key not in defaults or value != defaults[key])
    }


def sha256_json(value: Any) -> str:
    """SHA-256 of a value as JSON in one spelling, as "sha256:..."."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
