"""How far the patches of a stack move one another's facts, from the files alone.

An edit answers every key, not only its own facts'. What patch q adds at a layer for the facts of patch p is
its response to their rows, A_q^T sum_j Psi_q,j^T Psi_p,j. Measured against what p itself adds for them it
says how much of each fact's edit is lost or doubled with both on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from moe_patch.patch import Patch
from moe_patch.patch.rows import concatenate_rows
from moe_patch.solve.algebra import Interference, compare_outputs, edit_response
from moe_patch.stack.foundation import foundation_of
from moe_patch.stack.layers import fact_rows
from moe_patch.stack.members import Stacked
from moe_patch.stack.overlap import superseded_facts


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What one patch does to the facts of another at one layer; shares are of each fact's own edit."""

    disturbed: str  # names of the patches
    by: str
    layer: int
    fact: str  # id of the fact that is moved most
    worst: float  # share by which it is moved, in any direction
    along: float  # how much of that goes along its own edit: -1 undoes it, 1 doubles it
    median: float  # of the shares of all facts


@dataclass(frozen=True, slots=True)
class FactShift:
    """How far the whole stack, combined, leaves the facts of one patch from where that patch put them."""

    patch: str
    layer: int
    fact: str
    worst: float
    median: float


def find_disturbances(stacked: Sequence[Stacked]) -> list[Disturbance]:
    """Every ordered pair of delta patches at every layer that both edit, the worst first.

    A patch is not disturbed by those that it was built on: its edit was measured with them there.
    """
    deltas = [member for member in stacked if member.patch.kind == "delta"]
    layers = sorted({layer for member in deltas for layer in member.patch.layers})
    found = [pair for layer in layers for pair in _at_layer(deltas, layer)]
    return sorted(found, key=lambda pair: -pair.worst)


def fact_shifts(stacked: Sequence[Stacked], combined: Patch) -> list[FactShift]:
    """For each patch and layer, how far its facts are moved in `combined` from its own edit, the worst first.

    Facts that a later patch answers do not count.
    """
    found = []
    for member, gone in zip(stacked, superseded_facts(stacked), strict=True):
        ids = [fact.id for fact in member.patch.facts]
        kept = torch.tensor([number for number, fact_id in enumerate(ids) if fact_id not in gone])
        for layer in sorted(member.patch.layers) if len(kept) else ():
            alone = _added(member.patch, member.patch, layer)  # (T, d_m)
            moved = _added(combined, member.patch, layer) - alone
            for beneath in stacked:
                if beneath.patch.hash in foundation_of(member.patch).patches:
                    moved -= _added(beneath.patch, member.patch, layer)
            share = compare_outputs(alone, moved).share[kept]  # (n,)
            worst = int(share.argmax())
            fact = ids[int(kept[worst])]
            found.append(FactShift(member.name, layer, fact, float(share[worst]), float(share.median())))
    return sorted(found, key=lambda shift: -shift.worst)


def _at_layer(deltas: Sequence[Stacked], layer: int) -> Iterator[Disturbance]:
    """The pairs of one layer: each patch's response to all facts at once."""
    members = [member for member in deltas if layer in member.patch.layers]
    keys = reduce(concatenate_rows, (fact_rows(member.patch, layer) for member in members))
    facts = [len(member.patch.facts) for member in members]
    own = torch.cat([_added(member.patch, member.patch, layer) for member in members])  # (sum T, d_m)
    for other in members:
        delta = other.patch.layers[layer]
        added = edit_response(delta.left, delta.rows, keys)  # (sum T, d_m)
        for one, alone, moved in zip(
            members, torch.split(own, facts), torch.split(added, facts), strict=True
        ):
            if one is not other and other.patch.hash not in foundation_of(one.patch).patches:
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
    """What a patch adds at a layer for the facts of another one, (T, d_m) fp64."""
    rows = fact_rows(probe, layer)
    if layer not in patch.layers:
        return torch.zeros(rows.num_facts, probe.layers[layer].left.shape[1], dtype=torch.float64)
    delta = patch.layers[layer]
    return edit_response(delta.left, delta.rows, rows)
