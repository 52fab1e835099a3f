"""The hashes that make up a base's fingerprint."""

from __future__ import annotations

import hashlib
from typing import Any

from moe_patch.base.dense import DenseLayer
from moe_patch.base.moe import MoELayer
from moe_patch.versions import settled_layer_types

_VOLATILE_CONFIG = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",  # tools change these to match a tokenizer, and no forward pass depends on them
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "experts_implementation",
    "layer_types",  # added below, since their names differ between releases
    "mlp_layer_types",  # likewise, and the index says which layers are MoE
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "quantization_config",  # how weights are stored; the experts' hashes cover their values
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def down_hash(layer: MoELayer | DenseLayer) -> str:
    """SHA-256 over the down projections of the unpatched layer, in expert order.

    Each is hashed as little-endian fp32 (d_m, d_k). So packed, split and transposed layouts give the same
    hash, and so does a bf16 checkpoint opened as fp32. For an expert that a merge has changed, the stored
    original is hashed.
    """
    digest = hashlib.sha256()
    with layer.weights() as stacked:
        for expert in range(layer.num_experts):
            down = layer.originals.get(expert, stacked[expert])
            digest.update(down.float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return f"sha256:{digest.hexdigest()}"


def settled_config(config: Any, *, layer_types: bool = True) -> dict[str, Any]:
    """The fields of a config that differ from its class's defaults and matter to a forward pass.

    Since defaults are left out, a field that a new release adds changes nothing. For the same reason layer
    types are left out where all layers have full attention.

    Args:
        config: of a text model.
        layer_types: whether they count; in format 1 they did not.
    """
    defaults = type(config)().to_dict()
    settled = config.to_dict()
    types = settled_layer_types(settled.get("layer_types") or ()) if layer_types else ()
    return {
        key: value
        for key, value in settled.items()
        if key not in _VOLATILE_CONFIG and (key not in defaults or value != defaults[key])
    } | ({"layer_types": types} if set(types) - {"full_attention"} else {})
