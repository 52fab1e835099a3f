"""Saying which facts a search found no good target value for, and why that may be."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from moe_patch.data.facts import Fact
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.values import Ending, Targets

logger = logging.getLogger(__name__)

_WHY: dict[Ending, str] = {
    "clamp": "held back by the clamp (raise targets.clamp, or edit a lower layer)",
    "stalled": "without a lower loss for targets.patience steps (lower targets.learning_rate)",
    "steps": "out of steps (raise targets.steps)",
}
_NAMED = 5  # facts in a warning


def short_of_margin(found: Targets, options: TargetOptions) -> list[int]:
    """The numbers of the facts whose answers lead by less than was asked, the furthest from it first.

    Without a margin in the options, these are the facts whose answers do not lead at all.
    """
    wanted = options.margin or 0.0
    short = [number for number, margin in enumerate(found.margin) if margin < wanted]
    return sorted(short, key=lambda number: found.margin[number])


def warn_of_shortfall(facts: Sequence[Fact], found: Targets, options: TargetOptions, layer: int) -> None:
    """Log a warning that names the facts of `short_of_margin` and says how their searches ended."""
    short = short_of_margin(found, options)
    if not short:
        return
    endings = [found.ended[number] for number in short]
    reasons = [f"{endings.count(ending)} {why}" for ending, why in _WHY.items() if ending in endings]
    named = [
        f"{facts[number].id} (margin {found.margin[number]:.2g}, loss {found.loss_after[number]:.2g})"
        for number in short[:_NAMED]
    ]
    more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
    logger.warning(
        "layer %d: the search for target values ended before the answer led by %g nats for %d of %d facts: "
        "%s; they are %s%s",
        layer,
        options.margin or 0.0,
        len(short),
        len(found.margin),
        ", ".join(reasons),
        ", ".join(named),
        more,
    )
