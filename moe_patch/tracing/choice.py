"""Which layers to edit, by what a trace found."""

from __future__ import annotations

from moe_patch.base.model import Base
from moe_patch.errors import ConfigError
from moe_patch.tracing.report import TraceReport

SHARE = 0.75  # of the greatest effect, which the chosen layer has at least


def choose_layers(report: TraceReport, base: Base, *, count: int = 1) -> tuple[int, ...]:
    """A run of at most `count` layers with experts to edit, in ascending order.

    The last of them, where target values are set, is the first whose block gives back nearly as much of the
    answers as any: the facts pass through it, and the layers above still read what it adds. The others are
    the layers with experts right below it.

    Raises:
        ConfigError: no layer with experts was traced, or `count` is below 1.
    """
    if count < 1:
        raise ConfigError(f"{count} layers cannot be chosen: expected at least 1")
    effects = {each.layer: each.effects["moe"].mean for each in report.editable if "moe" in each.effects}
    if not effects:
        raise ConfigError(f"no layer of {report.base} with experts was traced, so none can be chosen")
    least = SHARE * max(effects.values())
    last = min(layer for layer, effect in effects.items() if effect >= least)
    below = [layer for layer in sorted(base.layers) if layer <= last]
    return tuple(below[-count:])
