"""A recipe of settings that were found by tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_patch.base.model import Base
from moe_patch.methods.recipes import Recipe

_MATCH = (
    *("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"),
    *("moe_intermediate_size", "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok"),
)
"""Fields of a config that tell models of other sizes apart, as far as a model has them."""


def tuned_recipe(base: Base, method: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of a method's options by dotted names, for this base."""
    config, root = base.model.config.get_text_config(), base.fingerprint([]).root
    match = {name: getattr(config, name, None) for name in _MATCH}
    options: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, last = name.split(".")
        inner = options
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = list(value) if isinstance(value, tuple) else value
    return Recipe(
        name=f"tuned-{config.model_type}-{root.removeprefix('sha256:')[:8]}",
        match={name: value for name, value in match.items() if isinstance(value, str | int)},
        methods={method: options},
        base=root,
    )
