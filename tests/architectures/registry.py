"""Which types of models with experts transformers has, and a tiny config for each, from its own registry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)
from transformers.models.auto.configuration_auto import model_type_to_module_name

from tests.architectures.configs import (
    CLOSED,
    COMMON,
    CONFIGS,
    NEEDS_PACKAGE,
    NOT_ALONE,
    PARTS,
    TEXT,
    VOCABULARY,
)

_OWN = CONFIGS | NOT_ALONE

_EXPERTS = re.compile(
    r"use_experts_implementation|^class \w*(Experts|MoE|Moe)\w*\(nn\.|^class \w*(Experts|MoE)\(", re.MULTILINE
)
_SIZES = [  # by how the names of a config's numbers end; None stands for the number of layers
    (r"(moe|expert)\w*intermediate_size", 24),
    (r"intermediate_size|ffn_dim|mlp_dim|ffn_hidden_size|inner_dim", 48),
    (r"hidden_size|d_model|embed_dim|hidden_dim|n_embd|projection_dim|output_dim|embedding_dim", 32),
    (r"num_hidden_layers|num_layers|depth|n_layers?|layers", None),
    (r"num_key_value_heads|num_kv_heads", 2),
    (r"num_(attention_)?heads|n_heads?|attention_heads", 4),
    (r"head_dim", 8),
    (r"n_routed_experts|num_experts|num_local_experts", 8),
    (r"num_experts_per_tok(en)?|moe_topk|top_k_experts", 3),
    (r"vocab_size", VOCABULARY),
    (r"lora_rank", 16),
    (r"max_position_embeddings", 128),
    (r"image_size", 16),
    (r"patch_size", 8),
]


@dataclass(frozen=True, slots=True)
class ModelType:
    """A type of model; `text` is the type of the text model that it is tried with, if it takes any."""

    name: str
    text: str | None = None

    def __str__(self) -> str:
        return self.name if self.text is None else f"{self.name} with {self.text}"


@cache
def model_types() -> tuple[ModelType, ...]:
    """Every type that continues text, also after images, with experts or a text model that may have them."""
    found = []
    for name, config in CONFIG_MAPPING.items():
        if config not in MODEL_FOR_CAUSAL_LM_MAPPING and config not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            continue
        if name in CLOSED or (name in NEEDS_PACKAGE and find_spec(NEEDS_PACKAGE[name]) is None):
            continue
        if _has_experts(name):
            found.append(ModelType(name))
        elif _parts(config).get("text_config") is AutoConfig:
            usual = config().get_text_config().model_type
            found.append(ModelType(name, None if _has_experts(usual) else TEXT.get(name, "mixtral")))
    return tuple(sorted(found, key=str))


def tiny_config(model_type: ModelType, **overrides: Any) -> PreTrainedConfig:
    """A config of that type whose model has some ten thousand weights."""
    return AutoConfig.for_model(model_type.name, **{**_values(model_type), **overrides})


def _has_experts(name: str) -> bool:
    folder = Path(transformers.__file__).parent / "models" / model_type_to_module_name(name)
    return any(_EXPERTS.search(path.read_text(encoding="utf-8")) for path in folder.glob("modeling_*.py"))


def _values(model_type: ModelType) -> dict[str, Any]:
    name, config = model_type.name, CONFIG_MAPPING[model_type.name]
    if name in _OWN and "text_config" not in _parts(config):
        return {**COMMON, **_OWN[name]}
    usual = config()
    values = _shrunk(usual, COMMON["num_hidden_layers"], model_type.text)
    if not _parts(config):
        values |= {key: value for key, value in COMMON.items() if hasattr(usual, key)}
    for part, changes in PARTS.get(name, {}).items():
        values[part] = {**values.get(part, {}), **changes} if isinstance(changes, dict) else changes
    return values


def _parts(config: type[PreTrainedConfig]) -> dict[str, type[PreTrainedConfig]]:
    return getattr(config, "sub_configs", {})


def _shrunk(config: PreTrainedConfig, layers: int, text: str | None = None) -> dict[str, Any]:
    """A config with small sizes, and with ids of tokens that a tiny vocabulary has, part by part."""
    small: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        for ending, size in _SIZES:
            if re.search(f"({ending})$", name):
                small[name] = layers if size is None else size
                break
        else:
            if name.endswith(("_token_id", "token_index")) and value >= VOCABULARY:
                small[name] = 5
    for name in _parts(type(config)):
        part = getattr(config, name, None)
        if part is None:
            continue
        if name == "text_config":
            own = text or part.model_type
            small[name] = {**_values(ModelType(own)), "model_type": own}
        else:
            small[name] = {**_shrunk(part, 1), "model_type": part.model_type}
    return small
