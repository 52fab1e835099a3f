"""Whether one more patch goes onto those whose deltas are in the weights of a running server.

Unlike a stack that is combined, a server adds the new delta as it is: nothing is dropped or solved again.
So a fact that a patch beneath answers too is moved by the new one, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moe_patch.errors import MoePatchError
from moe_patch.patch import Patch
from moe_patch.stack.check import (
    Finding,
    ShiftLimits,
    allowed,
    foundation_findings,
    moved_by_pairs,
    moved_by_stack,
    ordered,
)
from moe_patch.stack.conflicts import FactShift, find_disturbances, shifts_under
from moe_patch.stack.members import Stacked
from moe_patch.stack.overlap import find_overlaps


def check_addition(
    on: Sequence[Stacked],
    added: Stacked,
    applied: Sequence[Patch],
    limits: ShiftLimits | None = None,
    *,
    allow_conflicts: bool = False,
) -> tuple[Finding, ...]:
    """What `check_combined` would find of a patch that is added to others, and of nothing else.

    Args:
        on: the patches that are on, the lowest first.
        added: the patch to add.
        applied: the delta patches whose sum is in the weights now. They are those of `on`, unless some of
            them were solved jointly.
        limits: how far facts may be moved.
        allow_conflicts: whether conflicts are warnings.
    """
    limits = limits or ShiftLimits()
    found = [finding for one in on for finding in _said_twice(one, added)]
    known = set(foundation_findings(on))
    found += [finding for finding in foundation_findings([*on, added]) if finding not in known]
    try:
        found += _moved(on, added, applied, limits)
    except MoePatchError as error:
        found.append(Finding("refuse", f"how far facts are moved cannot be told: {error}", conflict=True))
    return ordered([allowed(finding) for finding in found] if allow_conflicts else found)


def _moved(
    on: Sequence[Stacked], added: Stacked, applied: Sequence[Patch], limits: ShiftLimits
) -> Iterator[Finding]:
    """Facts that are moved too far, and were not before."""
    deltas = [one for one in on if one.patch.kind == "delta"]
    if added.patch.kind != "delta" or not deltas:
        return
    pairs = [pair for one in deltas for pair in find_disturbances([one, added])]
    yield from moved_by_pairs(sorted(pairs, key=lambda pair: -pair.worst), limits)
    before = {_place(shift): shift for shift in shifts_under(deltas, applied, [()] * len(deltas))}
    members = [*deltas, added]
    for shift in shifts_under(members, [*applied, added.patch], [()] * len(members)):
        known = before.get(_place(shift))
        (now, then) = (list(moved_by_stack([one], limits)) if one else [] for one in (shift, known))
        if now and (not then or then[0].level != now[0].level):
            yield now[0]


def _said_twice(one: Stacked, added: Stacked) -> Iterator[Finding]:
    """Facts that both answer. Neither is dropped, so none of them "counts" as in a combined stack."""
    for overlap in find_overlaps([one, added]):
        if overlap.contradicts:
            yield Finding("refuse", f"contradictory facts: {overlap}", conflict=True)
        else:
            yield Finding("note", f"said twice: {overlap}; both are added")


def _place(shift: FactShift) -> tuple[str, int]:
    return shift.patch, shift.layer
