"""Which layers to edit, by what a trace found.

An edit sets what a layer puts out at the subject's last token. So that place must hold what the base knows of
the subject, gathered from all of its tokens, and the layers above must not have read it yet. Restoring the
layer's output there shows both: what that brings back rises while the subject is gathered, and falls once it
has been read. Of the layers near its top, those are of use whose own block adds much of the answer. Of equals
the first one is taken, since what higher layers hold has more in common for all subjects, and an edit there
is felt by more of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from moe_patch.base.model import Base
from moe_patch.errors import ConfigError
from moe_patch.tracing.report import Effect, TraceReport
from moe_patch.tracing.sites import Kind

GATHERED = 0.9
"""The share of the greatest effect of a layer's output at which the subject counts as gathered and unread."""

SHARE = 0.8
"""The share of the greatest effect of a block at which another one is as good."""


def choose_layers(report: TraceReport, base: Base, *, count: int = 1) -> tuple[int, ...]:
    """A run of at most `count` layers with experts to edit, in ascending order.

    Target values are set at the last of them. It is the first, of those where the subject is gathered and not
    yet read, whose block gives back nearly as much as any, or less by no more than a standard error. The
    others are the layers with experts right below it.

    Raises:
        ConfigError: no layer with experts was traced, or `count` is below 1.
    """
    if count < 1:
        raise ConfigError(f"{count} layers cannot be chosen: expected at least 1")
    last = _first_good(candidate_effects(report))
    below = [layer for layer in sorted(base.layers) if layer <= last]
    return tuple(below[-count:])


def candidate_effects(report: TraceReport) -> dict[int, Effect]:
    """The effects of blocks of the layers with experts where the subject is gathered and not yet read.

    Where outputs of layers were not traced, it is those of all layers with experts.

    Raises:
        ConfigError: no layer with experts was traced.
    """
    blocks = _effects(report, "moe")
    if not blocks:
        raise ConfigError(f"no layer of {report.base} with experts was traced, so none can be chosen")
    live = gathered_layers(_effects(report, "stream"))
    return {layer: effect for layer, effect in blocks.items() if layer in live} or blocks


def gathered_layers(outputs: Mapping[int, Effect]) -> range:
    """From the first to the last layer whose output gives back nearly as much as any does."""
    least = GATHERED * max((effect.mean for effect in outputs.values()), default=0.0)
    good = [layer for layer, effect in outputs.items() if effect.mean >= least]
    return range(min(good), max(good) + 1) if good else range(0)


def _first_good(effects: Mapping[int, Effect]) -> int:
    best = max(effects.values(), key=lambda effect: effect.mean)
    return min(
        layer
        for layer, effect in effects.items()
        if effect.mean >= SHARE * best.mean or best.mean - effect.mean <= best.error_beside(effect)
    )


def _effects(report: TraceReport, kind: Kind) -> dict[int, Effect]:
    return {each.layer: each.effects[kind] for each in report.editable if kind in each.effects}
