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
from moe_patch.tracing import locate_edit

logger = logging.getLogger(__name__)

EARLY = 0.25
"""The share of the depth at which an edit is made if tracing says nothing."""

_SINGLE = 4  # layers that are tried alone, those that carry most
_LONGEST = 3  # layers in a run


@dataclass(frozen=True, slots=True)
class Place:
    """Where to edit, and why."""

    layers: tuple[int, ...]
    reason: str
    ranking: tuple[int, ...] = ()  # layers with experts, the likeliest to be good first; empty if not traced


def find_place(
    base: Base, facts: Sequence[Fact], style: PromptStyle, progress: Progress | None = None
) -> Place:
    """The layer at which the base reads what the facts change.

    Args:
        base: the model, without patches.
        facts: to edit, or at least of their kind.
        style: how facts become text, and which token is edited.
        progress: called with the stages "tracing" and "known facts".

    Raises:
        NumericalError: the logits hold NaN or an infinity.
        PromptError: a prompt cannot be read.
        TargetError: a fact has no token to edit.
    """
    if not facts or not base.layers:
        return _early(base, "where early layers usually are")
    try:
        found = locate_edit(base, facts, style=style, progress=progress)
    except CaptureError as error:
        logger.warning("tracing is not possible with %s: %s", base.name, error)
        return _early(base, "tracing is not possible with this model")
    if found is None:
        return _early(base, "tracing found no fact that noise at its subject takes away")
    of = "of these facts" if found.own_facts else "facts that the model knows, since it does not know these"
    traced = f"tracing {len(found.report.facts)} {of}"
    where = "the subject is gathered there and not yet read"
    return Place(found.layers, f"{traced}: {where}", found.ranking)


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
