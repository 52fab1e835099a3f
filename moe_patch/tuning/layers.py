"""Where to edit, for a base that no recipe speaks of."""

from __future__ import annotations

from moe_patch.base.model import Base
from moe_patch.errors import ConfigError

EARLY = 0.25
"""The share of the depth at which an edit is made if nothing is known of a model."""


def early_layer(base: Base) -> tuple[int, ...]:
    """The layer with experts nearest to a quarter of the depth, the lower one of two.

    Raises:
        ConfigError: the base has no layer with experts.
    """
    if not base.layers:
        raise ConfigError(f"{base.name} has no layer with experts: name a layer with --layers")
    wanted = EARLY * base.num_layers
    return (min(base.layers, key=lambda layer: (abs(layer - wanted), layer)),)
