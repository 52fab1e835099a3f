"""How far the patches of a stack move one another's facts, computed from the files alone.

An edit responds to every key, not only to those of its own facts. What patch q adds at a layer for the facts
of patch p is its response to their rows, A_q^T sum_j Psi_q,j^T Psi_p,j. Compared with what p itself adds for
them, it shows how much of each fact's edit is lost or doubled when both patches are applied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from moe_patch.patch import Patch
from moe_patch.patch.rows import concatenate_rows
from moe_patch.solve.algebra import Interference, compare_outputs
from moe_patch.solve.delta_algebra import delta_response
from moe_patch.stack.foundation import foundation_of
from moe_patch.stack.layers import fact_rows
from moe_patch.stack.members import Stacked
from moe_patch.stack.overlap import superseded_facts


@dataclass(frozen=True, slots=True)
class Disturbance:
    """How far one patch moves the facts of another at one layer, as shares of each fact's own edit."""

    disturbed: str  # name of the patch whose facts are moved
    by: str
    layer: int
    fact: str  # id of the fact that is moved most
    worst: float  # how far that fact is moved, in any direction
    along: float  # the part of that along its own edit: -1 undoes the edit, 1 doubles it
    median: float  # over all facts of the disturbed patch


@dataclass(frozen=True, slots=True)
class FactShift:
    """How far the whole stack, combined, moves the facts of one patch from where that patch put them."""

    patch: str  # name of the patch
    layer: int
    fact: str  # id of the fact that is moved most
    worst: float  # how far that fact is moved, as a share of its own edit
    median: float  # over all facts of the patch


def find_disturbances(stacked: Sequence[Stacked]) -> list[Disturbance]:
    """Measure every ordered pair of delta patches at every layer that both edit; the worst come first.

    Patches that a patch was built on do not count: its edit was measured with them applied. A patch without
    facts has none that could be moved.
    """
    deltas = [member for member in stacked if member.patch.kind == "delta"]
    layers = sorted({layer for member in deltas for layer in member.patch.layers})
    found = [pair for layer in layers for pair in _at_layer(deltas, layer)]
    return sorted(found, key=lambda pair: -pair.worst)


def fact_shifts(stacked: Sequence[Stacked], combined: Patch) -> list[FactShift]:
    """For each patch and layer, how far `combined` moves its facts from its own edit; the worst come first.

    Facts that a later patch answers too do not count.
    """
    return shifts_under(stacked, [combined], superseded_facts(stacked))


def shifts_under(
    stacked: Sequence[Stacked], applied: Sequence[Patch], answered_again: Sequence[Collection[str]]
) -> list[FactShift]:
    """For each patch and layer, how far the sum of `applied` moves its facts from its own edit.

    Args:
        stacked: the patches whose facts are measured, the lowest first.
        applied: the delta patches whose sum is in the weights.
        answered_again: for each patch of `stacked`, the ids of facts that do not count.
    """
    found = []
    for member, gone in zip(stacked, answered_again, strict=True):
        ids = [fact.id for fact in member.patch.facts]
        kept = torch.tensor([number for number, fact_id in enumerate(ids) if fact_id not in gone])
        for layer in sorted(member.patch.layers) if len(kept) else ():
            alone = _added(member.patch, member.patch, layer)  # (T, d_m)
            moved = sum((_added(patch, member.patch, layer) for patch in applied), -alone)
            for beneath in stacked:
                if beneath.patch.hash in foundation_of(member.patch).patches:
                    moved -= _added(beneath.patch, member.patch, layer)
            share = compare_outputs(alone, moved).share[kept]  # (n,)
            worst = int(share.argmax())
            fact = ids[int(kept[worst])]
            found.append(FactShift(member.name, layer, fact, float(share[worst]), float(share.median())))
    return sorted(found, key=lambda shift: -shift.worst)


def _at_layer(deltas: Sequence[Stacked], layer: int) -> Iterator[Disturbance]:
    """The pairs of one layer, from each patch's response to all facts at once."""
    members = [member for member in deltas if layer in member.patch.layers]
    keys = reduce(concatenate_rows, (fact_rows(member.patch, layer) for member in members))
    facts = [len(member.patch.facts) for member in members]
    own = torch.cat([_added(member.patch, member.patch, layer) for member in members])  # (sum T, d_m)
    for other in members:
        delta = other.patch.layers[layer]
        added = delta_response(delta, keys)  # (sum T, d_m)
        for one, alone, moved in zip(
            members, torch.split(own, facts), torch.split(added, facts), strict=True
        ):
            beneath = other.patch.hash in foundation_of(one.patch).patches
            if one is not other and not beneath and len(alone):
                yield _disturbance(one, other, layer, compare_outputs(alone, moved))


def _disturbance(one: Stacked, other: Stacked, layer: int, moved: Interference) -> Disturbance:
    worst = int(moved.share.argmax())
    return Disturbance(
        disturbed=one.name,
        by=other.name,
        layer=layer,
        fact=one.patch.facts[worst].id,
        worst=float(moved.share[worst]),
        along=float(moved.along[worst]),
        median=float(moved.share.median()),
    )


def _added(patch: Patch, probe: Patch, layer: int) -> Tensor:
    """What `patch` adds at a layer for the facts of `probe`, (T, d_m) fp64."""
    rows = fact_rows(probe, layer)
    if layer not in patch.layers:
        return torch.zeros(rows.num_facts, probe.layers[layer].left.shape[1], dtype=torch.float64)
    return delta_response(patch.layers[layer], rows)
