"""Where to edit, for a base that no recipe speaks of: by a short run of causal tracing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import CaptureError
from moe_patch.progress import Progress
from moe_patch.tracing import choose_layers, trace
from moe_patch.tracing.sites import Kind

logger = logging.getLogger(__name__)

TRACED = 16
"""Facts that are traced, at most: enough to tell layers apart, and a matter of seconds."""

EARLY = 0.25
"""The share of the depth at which an edit is made if tracing says nothing."""

_KINDS: tuple[Kind, ...] = ("moe",)  # what the experts of a layer add at the edited token
_SINGLE = 4  # layers that are tried alone, those that carry most
_LONGEST = 3  # layers in a run


@dataclass(frozen=True, slots=True)
class Place:
    """Where to edit, and why."""

    layers: tuple[int, ...]
    reason: str
    ranking: tuple[int, ...] = ()  # all layers with experts, those that carry most first; empty if not traced


def find_place(
    base: Base, facts: Sequence[Fact], style: PromptStyle, progress: Progress | None = None
) -> Place:
    """The layer at which the base reads what the facts change.

    Args:
        base: the model, without patches.
        facts: to edit; of many, some are traced that are spread evenly over them.
        style: how facts become text, and which token is edited.
        progress: called with the stage "tracing".

    Raises:
        NumericalError: the logits hold NaN or an infinity.
        PromptError: a prompt cannot be read.
        TargetError: a fact has no token to edit.
    """
    some = facts[:: -(-len(facts) // TRACED)] if facts else ()
    if not some or not base.layers:
        return _early(base, "where early layers usually are")
    try:
        report = trace(base, some, kinds=_KINDS, layers=base.layers, style=style, progress=progress)
    except CaptureError as error:
        logger.warning("tracing is not possible with %s: %s", base.name, error)
        return _early(base, "tracing is not possible with this model")
    ranking = report.ranking()
    effects = {each.layer: each.effects["moe"].mean for each in report.editable if "moe" in each.effects}
    if not ranking or effects[ranking[0]] <= 0:
        return _early(base, "tracing found no layer that carries the facts")
    layers = choose_layers(report, base)
    share = effects[layers[-1]] / report.total.mean if report.total.mean > 0 else 0.0
    return Place(layers, f"tracing {len(some)} facts: it carries {share:.0%} of the answers", ranking)


def layer_candidates(base: Base, place: Sequence[int], ranking: Sequence[int]) -> list[tuple[int, ...]]:
    """Lists of edit layers that are worth a try: runs up to a place, and single layers that carry much.

    Args:
        base: the model.
        place: the layers that are edited unless others are better.
        ranking: layers with experts, those that carry most first; all of them from below if it is empty.
    """
    upto = [layer for layer in sorted(base.layers) if layer <= max(place)]
    runs = [tuple(upto[-count:]) for count in range(1, _LONGEST + 1)]
    single = ranking or sorted(base.layers)
    return list(dict.fromkeys([*runs, *((layer,) for layer in single[:_SINGLE])]))


def _early(base: Base, reason: str) -> Place:
    """The layer nearest to a quarter of the depth, of those with experts unless there are none."""
    wanted, known = EARLY * base.num_layers, sorted(base.layers) or range(base.num_layers)
    layer = min(known, key=lambda layer: (abs(layer - wanted), layer))
    return Place((layer,), f"a quarter of the way up, {reason}")
